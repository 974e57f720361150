"""Cross-origin requests: which pages of other servers may read the answers."""

from __future__ import annotations

import asyncio
import contextlib
import json

import aiohttp
import pytest
import yarl
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from conftest import picture
from mataserver import config, testing
from mataserver.config import ConfigError
from mataserver.http import origins

PAGE, STRANGER = "https://shop.example", "https://evil.example"
ASKS = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
ALLOWED = "Access-Control-Allow-Origin"


@contextlib.asynccontextmanager
async def serving(data_dir, *origins):
    """Run a server that allows ``origins``; yield an HTTP session with the key."""
    async with (
        testing.serving(data_dir, engine="thread", cors_origins=list(origins)) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        yield http


async def headers(http, path="/v1/models", origin=PAGE, method="GET", status=200, **options):
    """Return the headers of an answer to a page of ``origin``."""
    given = {"Origin": origin, **options.pop("headers", {})} if origin else {}
    async with http.request(method, path, headers=given, **options) as response:
        assert response.status == status, await response.text()
        return response.headers


async def test_off_by_default(http):
    """Without the setting no page of another server can read anything, nor ask whether it may."""
    assert ALLOWED not in await headers(http)
    told = await headers(http, "/v1/infer", method="OPTIONS", status=405, headers=ASKS)
    assert not [name for name in told if name.startswith("Access-Control")]


async def test_an_allowed_page_reads_answers(data_dir):
    """The answer to an allowed page names it; answers to others, and to none, say nothing."""
    async with serving(data_dir, PAGE, "http://localhost:5173") as http:
        told = await headers(http)
        assert (told[ALLOWED], told["Vary"]) == (PAGE, "Origin")
        assert told["Access-Control-Expose-Headers"] == "*"
        for origin in (STRANGER, PAGE + ".evil.example", "null", PAGE.upper(), None):
            told = await headers(http, origin=origin)
            assert ALLOWED not in told
            assert told["Vary"] == "Origin"  # a cache must not give this answer to that page


async def test_what_else_an_answer_depends_on_stays():
    """A cache must not give a compressed file to who cannot read it, either."""
    application = web.Application()
    origins.allow_origins(application, [PAGE], lambda _request, response: response)

    async def file(_request):
        return web.Response(headers={"Vary": "Accept-Encoding"})

    application.router.add_get("/file", file)
    async with TestClient(TestServer(application)) as http, http.get("/file") as response:
        assert response.headers["Vary"] == "Accept-Encoding, Origin"


async def test_every_page(data_dir):
    """The star allows all pages, and answers do not differ."""
    async with serving(data_dir, "*") as http:
        for origin in (PAGE, STRANGER, None):
            told = await headers(http, origin=origin)
            assert told[ALLOWED] == "*"
            assert "Vary" not in told


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/v1/models/nobody", "GET", 404),
        ("/v1/nowhere", "GET", 404),
        ("/v1/models", "DELETE", 405),
        ("/v1/infer", "POST", 415),
    ],
)
async def test_errors_can_be_read_too(data_dir, path, method, status):
    """A page learns why its request failed."""
    async with serving(data_dir, PAGE) as http:
        assert (await headers(http, path, method=method, status=status))[ALLOWED] == PAGE


async def test_a_missing_key_can_be_read_too(data_dir):
    """A 401 reaches the page; being allowed replaces no key."""
    async with serving(data_dir, PAGE) as http:
        bare = {"Authorization": ""}
        assert (await headers(http, status=401, headers=bare))[ALLOWED] == PAGE


async def test_a_refused_expectation_can_be_read_too(data_dir):
    """What is refused before its body is asked for carries the headers as well."""
    async with serving(data_dir, PAGE) as http:
        told = await headers(
            http, "/v1/infer", method="POST", status=417, headers={"Expect": "miracles"}
        )
        assert told[ALLOWED] == PAGE


async def test_events_can_be_read(data_dir):
    """Text that is streamed has the headers before its first event."""
    async with serving(data_dir, PAGE) as http:
        events = {"Accept": "text/event-stream", "Content-Type": "image/png"}
        path = "/v1/infer?model=fake-vlm"
        told = await headers(http, path, method="POST", data=picture(), headers=events)
        assert (told["Content-Type"].partition(";")[0], told[ALLOWED]) == (
            "text/event-stream",
            PAGE,
        )


async def test_a_browser_asks_before(data_dir):
    """A preflight needs no key: 204 with methods, headers and how long that holds."""
    async with serving(data_dir, PAGE) as http:
        for path in ("/v1/infer", "/v1/nowhere"):
            told = await headers(
                http, path, method="OPTIONS", status=204, headers={"Authorization": "", **ASKS}
            )
            assert told[ALLOWED] == PAGE
            assert "POST" in told["Access-Control-Allow-Methods"].split(", ")
            assert told["Access-Control-Allow-Headers"].split(", ") == ["Authorization", "*"]
            assert int(told["Access-Control-Max-Age"]) > 0
            assert told["X-Request-Id"]
            assert told["Server-Timing"].startswith("total;dur=")
        asked = {**ASKS, "X-Request-Id": "abc"}
        told = await headers(http, path, method="OPTIONS", status=204, headers=asked)
        assert told["X-Request-Id"] == "abc"


@pytest.mark.parametrize(
    ("line", "host", "detail"),
    [
        (b"/ HTTP/1.1", b"a b", "The Host header is not a host name"),
        (b"/ HTTP/2.0", b"box", "The request is not valid HTTP"),
        (b"/#a HTTP/1.1", b"box", "The request is not valid HTTP"),
    ],
)
async def test_asking_before_with_an_invalid_request(data_dir, line, host, detail):
    """A preflight is refused for what any other request is refused for."""
    async with testing.serving(data_dir, engine="thread", cors_origins=[PAGE]) as served:
        url = yarl.URL(served.url)
        asks = f"Origin: {PAGE}\r\nAccess-Control-Request-Method: POST\r\n\r\n".encode()
        head = b"OPTIONS %b\r\nHost: %b\r\nConnection: close\r\n%b" % (line, host, asks)
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(head)
        answer = await reader.read()
        writer.close()
        told, _, body = answer.partition(b"\r\n\r\n")
        assert told.startswith(b"HTTP/1.1 400 "), answer
        assert json.loads(body)["detail"] == detail


async def test_a_stranger_that_asks_before_is_told_nothing(data_dir):
    """The preflight of a page that is not allowed, and an OPTIONS that is none, are a plain 405."""
    async with serving(data_dir, PAGE) as http:
        for origin, asks in ((STRANGER, ASKS), (PAGE, {})):
            told = await headers(http, "/v1/infer", origin, "OPTIONS", 405, headers=asks)
            assert "Access-Control-Allow-Methods" not in told


@pytest.mark.parametrize("origin", ["shop.example", "https://shop.example/", "https://*", "", "**"])
def test_what_is_no_origin_is_refused(tmp_path, origin):
    """A page, a path or a pattern is no origin: the server does not start."""
    with pytest.raises(ConfigError, match=r"cors_origins\[0\]"):
        config.load(environ={}, directory=tmp_path, cors_origins=[origin])


def test_origins_of_the_environment(tmp_path):
    """The variable holds a list with commas."""
    variables = {"MATA_SERVER_CORS_ORIGINS": f"{PAGE}, http://localhost:5173"}
    settings = config.load(environ=variables, directory=tmp_path)
    assert settings.cors_origins == [PAGE, "http://localhost:5173"]
    wrong = {"MATA_SERVER_CORS_ORIGINS": "shop.example"}
    with pytest.raises(ConfigError, match="environment: MATA_SERVER_CORS_ORIGINS"):
        config.load(environ=wrong, directory=tmp_path)
