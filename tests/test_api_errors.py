"""What goes wrong around an inference: routes, bodies, limits, models and clients."""

from __future__ import annotations

import asyncio
import gzip
import io
import itertools
import logging
import struct
import zlib

import aiohttp
import psutil
import pytest
from PIL import Image

from api_answers import (
    answer,
    asking,
    connection,
    detail_of,
    exchange,
    head_of,
    infer,
    problem,
    refused,
    until,
)
from conftest import picture
from mataserver import testing

PNG = picture()
IMAGE = {"Content-Type": "image/png"}
JSON_HEAD = ("Content-Type: application/json",)
CHUNK = bytes(1_000_000)


async def send(http, status, behave, model="fake-detect"):
    """Infer with a model that misbehaves; return the detail of the error."""
    asked = asking(model, PNG, behave=behave)
    return await refused(http, status, "/v1/infer", json=asked)


async def metric(http, name):
    """Return the value of a metric without labels."""
    async with http.get("/metrics") as response:
        lines = (await response.text()).splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(f"{name} ")))


async def in_flight(http):
    """Return the bytes of request bodies that the server holds."""
    return await metric(http, "mataserver_body_bytes_in_flight")


# routes


@pytest.mark.parametrize("path", ["/v1", "/v1/", "/v1/inferr", "/v1/models/", "/v2/health", "/%ff"])
async def test_unknown_routes(http, path):
    """A path that is no route is 404 in the API's form."""
    async with http.get(path) as response:
        assert await problem(response, 404) == "Not found"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/infer", {"POST"}),
        ("GET", "/v1/infer/upload", {"POST"}),
        ("PUT", "/v1/sessions", {"GET", "POST"}),
        ("PATCH", "/v1/sessions/x", {"GET", "DELETE"}),
        ("DELETE", "/v1/models/org/name", {"GET"}),
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
    ],
    ids=range(11),
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
    """A body must be declared as what the route takes."""
    detail = await refused(http, 415, path, data=b"{}", headers={"Content-Type": kind})
    assert "application/json" in detail


async def test_compressed_bodies_are_415(http):
    """A small compressed body may hold any number of bytes: it is not taken."""
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    data = gzip.compress(b'{"model": "fake-detect"}')
    assert "Content-Encoding" in await refused(http, 415, "/v1/infer", data=data, headers=headers)


async def grown(server, head, sent):
    """Send a head and then chunks of a megabyte; return the answer and how much memory grew."""
    memory = psutil.Process().memory_info
    async with connection(server) as (reader, writer):
        writer.write(head)
        before = peak = memory().rss
        arriving = asyncio.create_task(answer(reader))
        for chunk in sent:
            if arriving.done():
                break
            writer.write(chunk)
            await writer.drain()
            peak = max(peak, memory().rss)
        return await arriving, peak - before


@pytest.mark.parametrize("path", ["/v1/infer", "/v1/infer/upload", "/v1/models/warmup"])
async def test_a_declared_large_body_is_413_at_once(server, path):
    """A Content-Length over the limit is 413 before a byte of the body is read."""
    kind = "multipart/form-data; boundary=B" if path.endswith("upload") else "application/json"
    head = head_of(server, path, f"Content-Type: {kind}", "Content-Length: 100000000")
    status, headers, body = await exchange(server, head)
    assert status == 413
    assert detail_of(body) == "The body is over the limit of 32000000 bytes"
    assert headers["connection"] == "close"


async def test_a_large_chunked_body_is_413_and_held_by_nobody(data_dir):
    """100 MB without a Content-Length are 413 at the limit, and memory does not grow by them."""
    async with (
        testing.serving(data_dir, engine="thread", max_body_mb=2) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        head = head_of(served, "/v1/infer", *JSON_HEAD, "Transfer-Encoding: chunked")
        chunks = itertools.repeat(b"%x\r\n%s\r\n" % (len(CHUNK), CHUNK), 100)
        (status, _, body), growth = await grown(served, head, chunks)
        assert status == 413
        detail_of(body)
        assert growth < 30e6
        assert await in_flight(http) == 0


async def test_the_body_limit_is_the_settings(data_dir):
    """A body of the limit's size passes it; one byte more is 413."""
    async with (
        testing.serving(data_dir, engine="thread", max_body_mb=0.001) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        for size, status in ((1000, 400), (1001, 413)):
            query = {"model": "fake-detect"}
            await refused(http, status, "/v1/infer", params=query, data=bytes(size), headers=IMAGE)


async def test_a_slow_body_is_408(data_dir):
    """A body that does not arrive in time is 408, and the connection is closed."""
    async with (
        testing.serving(data_dir, engine="thread", body_timeout=0.2) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        head = head_of(served, "/v1/infer", *JSON_HEAD, "Content-Length: 100")
        status, headers, body = await exchange(served, head + b"{")
        assert (status, headers["connection"]) == (408, "close")
        assert detail_of(body) == "The body did not arrive in time"
        assert await in_flight(http) == 0


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


@pytest.mark.parametrize(
    ("behave", "status", "said"),
    [
        ("raise", 500, "The model failed: RuntimeError"),
        ("garbage", 500, "The model returned an invalid result"),
        ("nan", 500, "The model returned an invalid result"),
        ("short", 500, "The model returned an invalid result"),
        ("memory", 507, "Out of memory"),
    ],
)
async def test_models_that_fail(http, behave, status, said):
    """A model that fails costs its request a 5xx without its text; the next one is served."""
    assert await send(http, status, behave) == said
    await infer(http, "fake-detect", PNG)


async def test_one_failing_picture_fails_alone(http):
    """In a batch only the request that makes the model fail is 500."""
    await infer(http, "fake-detect", PNG)
    blocker = asyncio.create_task(infer(http, "fake-detect", PNG, seconds=0.1))
    good = [asyncio.create_task(infer(http, "fake-detect", PNG)) for _ in range(3)]
    bad = asyncio.create_task(send(http, 500, "raise"))
    assert "failed" in await bad
    await asyncio.gather(blocker, *good)


# limits


async def test_a_full_queue_is_503_with_retry_after(data_dir):
    """A model with too many requests waiting is 503 and says when to come back."""
    async with (
        testing.serving(data_dir, engine="thread", queue_limit=2) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        await infer(http, "fake-detect", PNG)

        async def ask():
            asked = asking("fake-detect", PNG, seconds=0.2)
            async with http.post("/v1/infer", json=asked) as response:
                if response.status == 503:
                    assert int(response.headers["Retry-After"]) >= 1
                    assert await problem(response, 503) == "The model's queue is full"
                return response.status

        answers = await asyncio.gather(*(ask() for _ in range(10)))
    assert set(answers) == {200, 503}


async def test_too_many_bytes_in_flight_are_503(data_dir):
    """Bodies that arrive at the same time share a budget; what is over it is 503."""
    async with (
        testing.serving(data_dir, engine="thread", max_inflight_mb=1, max_body_mb=1) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
        connection(served) as (_, writer),
    ):
        writer.write(head_of(served, "/v1/infer", *JSON_HEAD, "Content-Length: 900000"))

        async def held():
            return await in_flight(http) == 900_000

        await until(held)
        query = {"model": "fake-detect"}
        sent = {"params": query, "data": bytes(200_000), "headers": IMAGE}
        async with http.post("/v1/infer", **sent) as response:
            assert response.headers["Retry-After"] == "1"
            assert await problem(response, 503) == "Too many request bytes are in flight"
        writer.transport.abort()

        async def free():
            return await in_flight(http) == 0

        await until(free)
        await refused(http, 400, "/v1/infer", **sent)


# clients that go away


async def test_a_client_that_leaves_during_its_upload(server, http, caplog):
    """A connection that breaks amid a body leaves no bytes, no traceback and a sound server."""
    caplog.set_level(logging.WARNING)
    for _ in range(3):
        async with connection(server) as (_, writer):
            head = head_of(server, "/v1/infer", *JSON_HEAD, "Content-Length: 5000000")
            writer.write(head + bytes(2_000_000))
            await writer.drain()

            async def held():
                return await in_flight(http) > 0

            await until(held)
            writer.transport.abort()

    async def free():
        return await in_flight(http) == 0

    await until(free)
    await infer(http, "fake-detect", PNG)
    assert caplog.records == []


async def test_a_client_that_leaves_during_its_inference(server, http, caplog):
    """A client that does not wait for its answer troubles nobody."""
    caplog.set_level(logging.WARNING)
    await infer(http, "fake-detect", PNG)
    head = head_of(
        server,
        "/v1/infer?model=fake-detect&seconds=0.2",
        "Content-Type: image/png",
        f"Content-Length: {len(PNG)}",
    )
    async with connection(server) as (_, writer):
        writer.write(head + PNG)

        async def active():
            async with http.get("/v1/models/fake-detect") as response:
                return (await response.json())["state"] == "active"

        await until(active)
        writer.transport.abort()
    await infer(http, "fake-detect", PNG)
    assert await in_flight(http) == 0
    assert caplog.records == []


async def test_a_client_that_leaves_during_the_load_stops_no_load(data_dir):
    """The load goes on for the next client, and is not begun again."""
    settings = {"plugins": {"fake": {"load_seconds": 0.2}}}
    async with (
        testing.serving(data_dir, engine="thread", **settings) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        head = head_of(
            served,
            "/v1/infer?model=fake-detect",
            "Content-Type: image/png",
            f"Content-Length: {len(PNG)}",
        )
        async with connection(served) as (_, writer):
            writer.write(head + PNG)

            async def loading():
                async with http.get("/v1/models/fake-detect") as response:
                    return (await response.json())["state"] == "loading"

            await until(loading)
            writer.transport.abort()
        await infer(http, "fake-detect", PNG)
        async with http.get("/metrics") as response:
            line = 'mataserver_model_loads_total{model="fake-detect",outcome="ok"} 1.0'
            assert line in await response.text()
