"""Bodies that tell little about themselves, and bodies that are compressed."""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from pathlib import Path
from threading import current_thread, main_thread

import aiohttp
import pytest
from PIL import Image

from api_answers import asking, exchange, head_of, problem
from conftest import picture
from mataserver import testing
from mataserver.http import data_uri

PNG = picture()
JSON = json.dumps(asking("fake-detect", PNG)).encode()
RAW = "/v1/infer?model=fake-detect"
BOX = [10.0, 8.0, 30.0, 28.0]
ROOT = Path(__file__).parent.parent
ASKED = re.compile(r"request\.(content_type|charset)\b")
UNSAID = ["application/octet-stream", "application/x-www-form-urlencoded", None]


async def sent(server, path: str, body: bytes, *headers: str) -> tuple[int, dict]:
    """POST bytes as they are; return status and decoded answer."""
    head = head_of(server, path, *headers, f"Content-Length: {len(body)}")
    status, _, answer = await exchange(server, head + body)
    return status, json.loads(answer)


def typed(kind: str | None) -> list[str]:
    """Return the header of a content type, or none."""
    return [] if kind is None else [f"Content-Type: {kind}"]


# bodies of no telling type


@pytest.mark.parametrize("kind", UNSAID)
async def test_an_image_of_no_telling_type(server, kind):
    """What curl sends with ``--data-binary`` alone is an image where the query names a model."""
    status, answer = await sent(server, RAW, PNG, *typed(kind))
    assert (status, answer["detections"][0]["bbox"]) == (200, BOX)


@pytest.mark.parametrize("kind", UNSAID)
@pytest.mark.parametrize("path", ["/v1/infer", RAW])
async def test_json_of_no_telling_type(server, kind, path):
    """What begins as a JSON object is one: curl's ``-d`` says nothing of it."""
    status, answer = await sent(server, path, b" \r\n" + JSON, *typed(kind))
    assert (status, answer["detections"][0]["bbox"]) == (200, BOX)


@pytest.mark.parametrize("body", [b"model=fake-detect&image=AAAA", PNG, b""])
async def test_without_a_model_it_is_415(server, body):
    """Neither JSON nor a model in the query: the types that are taken are told."""
    status, answer = await sent(server, "/v1/infer", body, *typed(UNSAID[1]))
    assert status == 415
    assert answer == {"detail": "Content-Type must be application/json or image/*"}


async def test_an_empty_body_and_no_picture(server):
    """With a model the body is looked at as an image: none and no picture are 400."""
    assert await sent(server, RAW, b"") == (400, {"detail": "image is empty"})
    status, answer = await sent(server, RAW, b"no picture", *typed(UNSAID[0]))
    assert (status, answer["detail"][:23]) == (400, "image cannot be decoded")


FORM = (
    b'--B\r\nContent-Disposition: form-data; name="model"\r\n\r\nfake-detect\r\n'
    b'--B\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n%b\r\n--B--\r\n' % PNG
)


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        *((RAW, PNG, kind) for kind in UNSAID),
        ("/v1/infer/upload", FORM, "multipart/form-data; boundary=B"),
    ],
)
async def test_pages_of_other_origins(data_dir, path, body, kind):
    """What a browser sends anywhere unasked is taken from its own pages and from allowed ones."""
    settings = {"engine": "thread", "cors_origins": ["https://shelf.example"]}
    async with testing.serving(data_dir, **settings) as served:
        for headers, expected in (
            ([], 200),
            (["Origin: http://localhost"], 200),
            (["Origin: https://shelf.example"], 200),
            (["Origin: https://public.example", "Sec-Fetch-Site: same-origin"], 200),
            (["Origin: https://evil.example"], 403),
            (["Origin: null"], 403),
            (["Origin: https://evil.example", "Sec-Fetch-Site: cross-site"], 403),
        ):
            status, answer = await sent(served, path, body, *typed(kind), *headers)
            assert status == expected, (headers, answer)
    assert answer == {"detail": "A page of another origin may not send this: see cors_origins"}


async def test_what_a_browser_asks_for_first_needs_no_origin(server):
    """JSON and images of other origins are the browser's to hold back: they are served."""
    for path, body, kind in (("/v1/infer", JSON, "application/json"), (RAW, PNG, "image/png")):
        status, _ = await sent(server, path, body, *typed(kind), "Origin: https://other.example")
        assert status == 200


# compressed bodies


def raw_deflate(data: bytes) -> bytes:
    """Compress without zlib's head, as many clients do for ``deflate``."""
    made = zlib.compressobj(wbits=-15)
    return made.compress(data) + made.flush()


def in_members(data: bytes) -> bytes:
    """Compress as two members of gzip."""
    return gzip.compress(data[:50]) + gzip.compress(data[50:])


WAYS = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "GZIP": in_members,
    "deflate": zlib.compress,
    " Deflate": raw_deflate,
    "identity": bytes,
}
TENSORS = {
    "inputs": [
        {"name": "image", "datatype": "BYTES", "shape": [1], "data": [asking("", PNG)["image"]]}
    ]
}
ROUTES = {
    "/v1/infer": (JSON, "application/json"),
    RAW: (PNG, "image/png"),
    "/v1/infer/upload": (FORM, "multipart/form-data; boundary=B"),
    "/v2/models/fake-detect/infer": (json.dumps(TENSORS).encode(), "application/json"),
    "/v1/models/warmup": (b'{"model": "fake-detect"}', "application/json"),
}


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("encoding", WAYS)
async def test_compressed_bodies(http, path, encoding):
    """A body in gzip or deflate is the same as the plain one, on every route."""
    body, kind = ROUTES[path]
    headers = {"Content-Type": kind, "Content-Encoding": encoding}
    made = io.BytesIO(WAYS[encoding](body))
    async with http.post(path, data=made, headers=headers) as response:
        assert response.status == 200, await response.text()


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", b""),
        ("gzip", PNG),
        ("gzip", gzip.compress(PNG)[:-9]),
        ("gzip", gzip.compress(PNG) + b"more"),
        ("gzip", gzip.compress(b"") * 5_000 + gzip.compress(PNG)),
        ("deflate", PNG),
        ("deflate", zlib.compress(PNG)[:-1]),
        ("deflate", zlib.compress(PNG) + b"more"),
    ],
)
async def test_damaged_bodies(server, encoding, body):
    """A body that is not what it says, ends early, goes on or is of countless parts is 400."""
    status, answer = await sent(
        server, RAW, body, *typed("image/png"), f"Content-Encoding: {encoding}"
    )
    assert (status, answer) == (400, {"detail": "The body does not match its Content-Encoding"})


async def test_bombs(data_dir):
    """A body is as large as what it holds: over the limit it is 413, and nothing of it is kept."""
    async with (
        testing.serving(data_dir, engine="thread", max_body_mb=1.0, max_inflight_mb=1.0) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        for encoding, pack in (("gzip", gzip.compress), ("deflate", zlib.compress)):
            headers = {"Content-Type": "image/png", "Content-Encoding": encoding}
            bomb = pack(bytes(100_000_000))
            assert len(bomb) < 200_000
            async with http.post(RAW, data=bomb, headers=headers) as response:
                assert "over the limit of 1000000 bytes" in await problem(response, 413)
        async with http.get("/metrics") as response:
            assert "\nmataserver_body_bytes_in_flight 0.0\n" in await response.text()
        async with http.post(RAW, data=PNG, headers={"Content-Type": "image/png"}) as response:
            assert response.status == 200


# what a type costs to be read


@pytest.mark.parametrize("path", ["/v1/session", "/v1/infer", "/v1/sessions"])
@pytest.mark.parametrize("behind", [";" * 8_000, '; charset="' + '"' * 8_000])
async def test_a_long_content_type(server, path, behind):
    """It is refused, to strangers too, before anything reads it: that took most of a second."""
    status, answer = await sent(server, path, b"{}", f"Content-Type: application/json{behind}")
    assert (status, answer) == (400, {"detail": "Content-Type has over 512 characters"})


@pytest.mark.parametrize("given", ["; charset=UTF-8", ' ; Charset = "utf-8"', ";" * 400])
async def test_a_content_type_is_read_at_once(server, monkeypatch, given):
    """By what takes no longer for a longer one: aiohttp's reader is never asked."""

    def dear(_raw: str):
        pytest.fail("aiohttp's reader was asked")

    monkeypatch.setattr("aiohttp.helpers.parse_content_type", dear)
    assert (await sent(server, "/v1/infer", JSON, f"Content-Type: application/json{given}"))[
        0
    ] == 200
    for other in ("; charset=latin-1", ' ; Charset = "latin-1"'):
        status, answer = await sent(
            server, "/v1/session", b"{}", f"Content-Type: application/json{other}"
        )
        assert (status, "latin-1" in answer["detail"]) == (415, True)


@pytest.mark.parametrize("house", ["mataserver", "plugins"])
def test_nobody_else_reads_it_otherwise(house):
    """A route's ``when`` and public routes read a stranger's header, too."""
    files = (ROOT / house).rglob("*.py")
    own = [each for each in files if "tests" not in each.parts and "node_modules" not in each.parts]
    assert len(own) > 100
    found = [str(each) for each in own if ASKED.search(each.read_text())]
    assert found == []


async def test_a_large_image_in_json_is_decoded_beside_the_event_loop(http, monkeypatch):
    """Base64 as well as the JSON around it."""
    threads = []
    decode = data_uri.decode
    monkeypatch.setattr(
        data_uri, "decode", lambda text: threads.append(current_thread()) or decode(text)
    )
    noise = io.BytesIO()
    Image.effect_noise((502, 502), 100).convert("RGB").save(noise, "BMP")
    for data in (PNG, noise.getvalue()):
        async with http.post("/v1/infer", json=asking("fake-detect", data)) as response:
            assert response.status == 200
    assert [each is main_thread() for each in threads] == [True, False]
