"""HTTP itself: HEAD, Expect, and what is no HTTP at all."""

from __future__ import annotations

import asyncio
import logging

import pytest

from api_answers import problem
from mataserver import config
from mataserver.http import protocol
from mataserver.testing import serving


async def raw(server, data):
    """Send bytes on a new connection; return the first bytes of the answer."""
    host, port = server.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(data)
    await writer.drain()
    answer = await asyncio.wait_for(reader.read(4096), 10)
    writer.close()
    return answer


async def test_head_is_get_without_the_body(http, server):
    """HEAD answers every document with its headers alone, and needs the same key."""
    for path in ("/v1/health", "/health", "/metrics", "/openapi.json", "/docs", "/v1/models"):
        async with http.head(path) as response:
            assert response.status == 200, path
            assert int(response.headers["Content-Length"]) > 0
            assert await response.read() == b""
    assert b" 401 " in await raw(server, b"HEAD /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")


async def test_expect_continue_asks_for_the_body_unless_it_is_too_large(server):
    """A body within the limit is asked for; one over it is refused before it is sent."""
    head = b"POST /v1/infer HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer test-key\r\n"
    small = head + b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    assert (await raw(server, small)).startswith(b"HTTP/1.1 100 Continue")
    large = head + b"Content-Length: 99999999\r\nExpect: 100-continue\r\n\r\n"
    assert b" 413 " in (await raw(server, large)).split(b"\r\n")[0]


@pytest.mark.parametrize("fast", [True, False])
async def test_a_refused_expectation_is_an_answer_like_any_other(tmp_path, fast):
    """417 and 413 have the id and the time, and are JSON on paths without a route, too."""
    expected = {
        b"POST /v1/infer": (b"Content-Length: 99999999\r\nExpect: 100-continue", b" 413 "),
        b"GET /v1/models": (b"Expect: miracles", b" 417 "),
        b"GET /nowhere": (b"Expect: miracles", b" 417 "),
        b"DELETE /v1/infer": (b"Expect: miracles", b" 417 "),
    }
    async with serving(tmp_path / "data", short_way=fast) as server:
        for what, (fields, status) in expected.items():
            head = b"%b HTTP/1.1\r\nHost: x\r\nX-Request-Id: mine\r\n%b\r\n\r\n" % (what, fields)
            answer = await raw(server, head)
            assert status in answer.split(b"\r\n")[0]
            assert b"\r\nX-Request-Id: mine\r\n" in answer
            assert b"\r\nServer-Timing: total;dur=" in answer
            assert b"\r\nConnection: close\r\n" in answer
            assert (b'{"detail":"The expectation cannot be met"}' in answer) == (status == b" 417 ")


@pytest.mark.parametrize(
    "data", [b"NONSENSE\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\r\n\r\n"]
)
async def test_what_is_no_http_is_400_and_logs_no_traceback(server, caplog, data):
    """Bytes that are no HTTP are answered 400; the log is not filled with tracebacks."""
    with caplog.at_level(logging.INFO):
        assert b" 400 " in (await raw(server, data)).split(b"\r\n")[0]
    assert not [record for record in caplog.records if record.exc_info]


async def test_other_content_encodings_are_415(http):
    """What the server cannot undo is refused by name."""
    for encoding in ("br", "zstd", "gzip, gzip", "compress"):
        headers = {"Content-Encoding": encoding, "Content-Type": "image/png"}
        async with http.post("/v1/infer?model=fake-detect", data=b"x", headers=headers) as response:
            assert "gzip, deflate or identity" in await problem(response, 415)


def test_a_budget_smaller_than_one_body_is_refused():
    """A budget of bytes in flight that no body of the allowed size fits into stops the start."""
    with pytest.raises(config.ConfigError, match="max_inflight_mb"):
        config.load(environ={}, max_inflight_mb=1.0)


async def test_extensions_of_chunks_are_limited(server, caplog):
    """A body of extensions alone is 413 long before its time is over; chunks of a byte are not."""
    head = (
        b"POST /v1/infer?model=fake-detect HTTP/1.1\r\nHost: x\r\n"
        b"Authorization: Bearer test-key\r\nContent-Type: image/png\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
    )
    answer = await raw(server, head + b"1;" + protocol.MAX_FRAMING * b"x" + 300_000 * b"x")
    assert b" 413 " in answer.split(b"\r\n")[0]
    assert protocol.FRAMING.encode() in answer
    answer = await raw(server, head + 300_000 * b"1\r\nx\r\n" + b"0\r\n\r\n")
    assert b" 400 " in answer.split(b"\r\n")[0]
    assert b"image" in answer
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize(
    "part", [b"zz\r\n\r\n", b"2\r\n{}x", b"0\r\nno trailer\r\n\r\n", b"0\r\na: %b\r\n\r\n"]
)
async def test_a_body_that_becomes_no_http_is_400_at_once(server, part):
    """The request waited for the rest of it, and was 408 when its time was over."""
    host, port = server.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"POST /v1/infer HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer test-key\r\n"
        b"Content-Type: application/json\r\nExpect: 100-continue\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
    )
    assert b" 100 " in await reader.readuntil(b"\r\n\r\n")
    writer.write(part.replace(b"%b", 20_000 * b"a"))
    answer = await asyncio.wait_for(reader.read(), 10)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.endswith(b'{"detail":"%b"}' % protocol.DETAIL.encode())
    assert answer.count(b"HTTP/1.") == 1
    writer.close()
