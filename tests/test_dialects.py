"""Errors in the form of the route's protocol, whoever it is that refuses a request."""

from __future__ import annotations

import asyncio
import contextlib

import aiohttp
import pytest

from api_answers import no_leak
from conftest import POINTS
from mataserver import testing

INFER = "/v2/models/fake-detect/infer"


@pytest.mark.parametrize(
    ("method", "path", "body", "kind", "status"),
    [
        ("POST", "/v1/chat/completions", b"{", "application/json", 400),
        ("POST", "/v1/chat/completions", b"[]", "application/json", 400),
        ("POST", "/v1/chat/completions", b"[" * 100_000, "application/json", 400),
        ("POST", "/v1/chat/completions", b"{}", "application/json", 400),
        ("POST", "/v1/chat/completions", b"{}", "text/plain", 415),
        ("POST", "/v1/chat/completions", b" " * 300_000, "application/json", 413),
        ("GET", "/v1/chat/completions", b"", "", 405),
        ("POST", "/v1/chat/elsewhere", b"{}", "application/json", 404),
        ("GET", "/openai/v1/elsewhere", b"", "", 404),
    ],
)
async def test_errors_have_openais_form(tmp_path, method, path, body, kind, status):
    """Whatever is wrong with a request is told in OpenAI's form, by handlers and by the router."""
    async with (
        testing.serving(tmp_path, entry_points=POINTS, max_body_mb=0.2) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
        http.request(method, path, data=body, headers={"Content-Type": kind}) as response,
    ):
        assert response.status == status
        told = await response.json()
        assert response.headers["X-Request-Id"]
    assert list(told) == ["error"]
    assert set(told["error"]) == {"message", "type", "param", "code"}
    assert told["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("/v1/chat/completions", b'{"error":{"message"'),
        ("/v2/models/fake-detect/infer", b'{"error":"The body'),
        ("/v1/infer", b'{"detail":"The body'),
    ],
)
async def test_expectations_are_refused_in_the_routes_form(server, path, form):
    """A body that is announced to be too large is refused before it is sent, in the same form."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]))
    with contextlib.closing(writer):
        writer.write(
            f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer test-key\r\n"
            "Content-Length: 99999999\r\nExpect: 100-continue\r\n\r\n".encode()
        )
        head = await reader.readuntil(b"\r\n\r\n")
        assert b" 413 " in head.split(b"\r\n")[0]
        assert (await reader.readexactly(len(form))) == form


async def refused(http, status, path, **request):
    """POST what must be refused; return the sentence, in the form of the inference protocol."""
    async with http.post(path, **request) as response:
        answer = await response.json()
        assert response.status == status, answer
    assert list(answer) == ["error"]
    no_leak(answer["error"])
    return answer["error"]


async def test_bodies_around_the_limits(data_dir):
    """Too large, compressed, or for a repository call no object."""
    async with (
        testing.serving(data_dir, entry_points=POINTS, engine="thread", max_body_mb=0.1) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        assert "limit" in await refused(http, 413, INFER, data=bytes(200_000))
        assert "Content-Encoding" in await refused(
            http, 415, INFER, data=b"x", headers={"Content-Encoding": "br"}
        )
        for path in ("index", "models/fake-detect/load", "models/fake-detect/unload"):
            await refused(http, 400, f"/v2/repository/{path}", data=b"[]")
            await refused(http, 400, f"/v2/repository/{path}", data=b"{")
