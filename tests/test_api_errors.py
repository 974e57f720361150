"""What goes wrong around an inference: routes, bodies, pictures and models."""

from __future__ import annotations

import asyncio
import base64
import io
import struct
import zlib

import aiohttp
import pytest
from PIL import Image

from api_answers import (
    asking,
    infer,
    problem,
    refused,
)
from conftest import picture
from mataserver import testing

PNG = picture()
IMAGE = {"Content-Type": "image/png"}


async def send(http, status, behave, model="fake-detect"):
    """Infer with a model that misbehaves; return the detail of the error."""
    asked = asking(model, PNG, behave=behave)
    return await refused(http, status, "/v1/infer", json=asked)


# routes


@pytest.mark.parametrize(
    "path",
    ["/v1", "/v1/", "/v1/inferr", "/v1/models/", "/v3/health", "/%ff", "/v1/v1/"],
)
async def test_unknown_routes(http, path):
    """A path that is no route is 404 in the API's form."""
    async with http.get(path) as response:
        assert await problem(response, 404) == "Not found"


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/models"), ("POST", "/infer"), ("GET", "/v1/v1/health"), ("DELETE", "/sessions/a")],
)
async def test_a_version_that_is_missing_or_there_twice(http, method, path):
    """A client's base URL had it, or had it not: the answer says what is wrong."""
    async with http.request(method, path) as response:
        assert "Not found: the path must begin with /v1 exactly once; " in await problem(
            response, 404
        )


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/infer", {"POST"}),
        ("GET", "/v1/infer/upload", {"POST"}),
        ("PUT", "/v1/sessions", {"GET", "POST"}),
        ("PATCH", "/v1/sessions/x", {"GET", "DELETE"}),
        ("PUT", "/v1/models/org/name", {"GET", "DELETE"}),
        ("POST", "/v1/models", {"GET"}),
        ("POST", "/v1/health", {"GET"}),
        ("OPTIONS", "/v1/infer", {"POST"}),
    ],
)
async def test_wrong_methods(http, method, path, allowed):
    """Another method is 405, and Allow says which ones there are."""
    async with http.request(method, path) as response:
        assert await problem(response, 405) == "Method not allowed"
        assert set(response.headers["Allow"].split(",")) - {"HEAD"} == allowed


@pytest.mark.parametrize(
    "given", ["abc-123", "a" * 128, "0af7651916cd43dd8448eb211c80319c", "a/b=+c"]
)
async def test_a_sane_request_id_is_kept(http, given):
    """The client's X-Request-Id comes back, on answers and on errors."""
    for path in ("/v1/health", "/none"):
        async with http.get(path, headers={"X-Request-Id": given}) as response:
            assert response.headers["X-Request-Id"] == given


@pytest.mark.parametrize("given", ["", "a" * 129, "a b", "<script>", "a;b", "ü", '"x"'])
async def test_an_insane_request_id_is_replaced(http, given):
    """An id with odd characters or of odd length is replaced by a new one."""
    async with http.get("/v1/health", headers={"X-Request-Id": given}) as response:
        made = response.headers["X-Request-Id"]
    assert made != given
    assert len(made) == 16


@pytest.mark.parametrize("path", ["/v1/health", "/none", "/v1/models/none"])
async def test_every_answer_is_timed(http, path):
    """Server-Timing is on every answer."""
    async with http.get(path) as response:
        assert response.headers["Server-Timing"].startswith("total;dur=")


# bodies


@pytest.mark.parametrize(
    "path",
    ["/v1/infer", "/v1/models/pull", "/v1/models/warmup", "/v1/models/unload", "/v1/sessions"],
)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"model=fake-detect",
        b'{"model": "fake-detect",}',
        b"{'model': 'fake-detect'}",
        b'{"model": NaN}',
        b'{"model": "\xff\xfe"}',
        b'{"model": "\\ud800"}',
        b'\xef\xbb\xbf{"model": "fake-detect"}',
        b'{"model": "fake-detect", "task": "ocr"} x',
        b'{"x":' * 100_000 + b"1" + b"}" * 100_000,
        b"{} x",
        b"[" * 100_000,
        b'{"model": 7, "image": "a}',
    ],
    ids=range(14),
)
async def test_bodies_that_are_no_json(http, path, body):
    """Malformed JSON, wrong UTF-8, NaN and deep nesting are 400 on every endpoint."""
    headers = {"Content-Type": "application/json"}
    detail = await refused(http, 400, path, data=body, headers=headers)
    assert detail == "The body is not valid JSON"


async def test_deep_nesting_inside_params(http):
    """Nesting inside params is 400 too, and the server lives."""
    deep = b'{"model":"fake-detect","image":"AAAA","params":{"a":%s}}' % (
        b"[" * 90_000 + b"]" * 90_000
    )
    headers = {"Content-Type": "application/json"}
    await refused(http, 400, "/v1/infer", data=deep, headers=headers)
    await infer(http, "fake-detect", PNG)


@pytest.mark.parametrize(
    "kind", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/x"]
)
@pytest.mark.parametrize(
    "path", ["/v1/infer", "/v1/models/pull", "/v1/models/warmup", "/v1/sessions"]
)
async def test_other_content_types_are_415(http, path, kind):
    """A body must be declared as what the route takes, where it does not look at it itself."""
    detail = await refused(http, 415, path, data=b"model=x", headers={"Content-Type": kind})
    assert "application/json" in detail


@pytest.mark.parametrize(
    "path", ["/v1/infer", "/v1/models/pull", "/v1/models/warmup", "/v1/sessions"]
)
async def test_json_of_another_charset_is_415(http, path):
    """It is read as UTF-8, and is not taken for that when it is said to be another."""
    for charset in ("utf-16", "ISO-8859-1", '"utf-7"'):
        headers = {"Content-Type": f"application/json; charset={charset}"}
        detail = await refused(http, 415, path, data="{}".encode("utf-16"), headers=headers)
        assert "read as UTF-8" in detail


# pictures


def png_bomb(width: int, height: int) -> bytes:
    """Return a small PNG whose header promises many pixels."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(10_000))
    ends = chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + ends


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (PNG[:-100], "cannot be decoded"),
        (picture(form="JPEG")[:-100], "cannot be decoded"),
        (b"GIF89a", "cannot be decoded"),
        (b"%PDF-1.7 no image", "cannot be decoded"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "cannot be decoded"),
        (bytes(1000), "cannot be decoded"),
        (png_bomb(30_000, 30_000), "too large"),
        (png_bomb(8_000, 8_000), "too large: 8000x8000"),
        (png_bomb(0, 10), "cannot be decoded"),
    ],
    ids=range(9),
)
async def test_pictures_that_are_refused(http, image, said):
    """What no decoder takes, and what has too many pixels, is 400 in each way to send it."""
    query = {"model": "fake-detect"}
    sent = {"params": query, "data": image, "headers": IMAGE}
    assert said in await refused(http, 400, "/v1/infer", **sent)
    assert said in await refused(http, 400, "/v1/infer", json=asking("fake-detect", image))
    form = aiohttp.FormData({"model": "fake-detect"})
    form.add_field("file", image, filename="a.png")
    assert said in await refused(http, 400, "/v1/infer/upload", data=form)


@pytest.mark.parametrize("size", [(1, 1), (20_000, 4), (3, 20_000)])
async def test_odd_sizes(http, size):
    """One pixel, and very wide or high pictures, are pictures."""
    image = picture(*size, box=(0, 0, 1, 1))
    body = await infer(http, "fake-detect", image)
    assert body["detections"] == [
        {"label": f"{size[0]}x{size[1]}", "confidence": 0.9, "bbox": [0, 0, 1, 1]}
    ]


async def test_an_upright_box(http):
    """The box of a picture that EXIF turns is in the upright picture's pixels."""
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    image = Image.open(io.BytesIO(PNG)).transpose(Image.Transpose.ROTATE_90)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    body = await infer(http, "fake-detect", buffer.getvalue())
    assert body["detections"][0]["label"] == "64x48"
    assert body["detections"][0]["bbox"] == [10, 8, 30, 28]


# models

INVALID = "The model returned an invalid result: fake-{}: "


@pytest.mark.parametrize(
    ("behave", "status", "said"),
    [
        ("raise", 500, "The model failed: RuntimeError"),
        ("garbage", 500, f"{INVALID.format('detect')}expected a result struct, got dict"),
        ("nan", 500, f"{INVALID.format('detect')}detections[0].confidence is not a finite number"),
        ("short", 500, f"{INVALID.format('detect')}0 results for 1 images"),
        ("memory", 507, "Out of memory"),
    ],
)
async def test_models_that_fail(http, behave, status, said):
    """A model that fails costs its request a 5xx without its text; the next one is served."""
    assert await send(http, status, behave) == said
    await infer(http, "fake-detect", PNG)


async def test_a_child_process_answers_the_same(data_dir):
    """Over the process engine failures, refused pictures and pixels arrive as from a thread."""
    async with (
        testing.serving(data_dir, engine="process") as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        assert await send(http, 500, "raise", "fake-segment") == "The model failed: RuntimeError"
        for behave in ("garbage", "nan", "short"):
            said = await send(http, 500, behave, "fake-segment")
            assert said.startswith(INVALID.format("segment"))
        assert await send(http, 507, "memory", "fake-segment") == "Out of memory"
        for image in (b"no image", PNG[:-100], png_bomb(30_000, 30_000)):
            await refused(http, 400, "/v1/infer", json=asking("fake-segment", image))
        first, _ = (await infer(http, "fake-segment", PNG))["segments"]
        assert base64.b64decode(first["mask"]).startswith(b"\x89PNG")


async def test_one_failing_picture_fails_alone(http):
    """In a batch only the request that makes the model fail is 500."""
    await infer(http, "fake-detect", PNG)
    blocker = asyncio.create_task(infer(http, "fake-detect", PNG, seconds=0.1))
    good = [asyncio.create_task(infer(http, "fake-detect", PNG)) for _ in range(3)]
    bad = asyncio.create_task(send(http, 500, "raise"))
    assert "failed" in await bad
    await asyncio.gather(blocker, *good)
