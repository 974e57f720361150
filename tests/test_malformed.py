"""What is no HTTP and no WebSocket: answered as the API answers, without a word of it."""

from __future__ import annotations

import asyncio
import json
import logging

import aiohttp
import pytest

from api_answers import connection, until
from mataserver import testing
from stream_peers import BINARY, CONTINUATION, RawPeer, frame, open_url, session_info, session_of

MALFORMED = [
    b"GET /secret\r\n\r\n",
    b"GET /secret\r\nHost: a\r\n\r\n",
    b"GET /secret HTTP/0.9\r\n\r\n",
    b"GET /secret HTTP/2.0\r\nHost: a\r\n\r\n",
    b"GET /secret HTTP/1.2\r\nHost: a\r\n\r\n",
    b"GET /health#secret.png HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET http://a/v1/models?x=1#secret HTTP/1.1\r\nHost: a\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"secret secret\r\n\r\n",
    b"GET / HTTP/1.1\r\nsecret header: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: \x00secret\r\n\r\n",
    b"GET /" + b"secret" * 2_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"secret" * 2_000 + b"\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /secret HTTP/1.1\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: secret\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01secret\r\n\r\n",
]


@pytest.mark.parametrize("data", MALFORMED, ids=lambda data: repr(data[:30]))
async def test_what_is_no_http(server, data, caplog):
    """It is 400 in JSON, repeats nothing, names no software, and fills no log."""
    with caplog.at_level(logging.INFO):
        async with connection(server) as (reader, writer):
            writer.write(data)
            async with asyncio.timeout(5):
                got = await reader.read()
    head, _, body = got.partition(b"\r\n\r\n")
    version, status = head.split()[:2]
    assert (version in {b"HTTP/1.0", b"HTTP/1.1"}, status) == (True, b"400")
    assert json.loads(body) == {"detail": "The request is not valid HTTP"}
    assert b"application/json" in head
    for word in (b"secret", b"aiohttp", b"Python", b"Server"):
        assert word not in got
    assert not [each for each in caplog.records if each.exc_info or each.levelno > logging.INFO]


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/nowhere", "/docs"])
async def test_answers_name_no_library(server, path):
    """An answer, an error and a page do not tell what serves them, nor in which release."""
    async with aiohttp.ClientSession(server.url) as http, http.get(path) as response:
        assert "Server" not in response.headers


async def test_a_socket_names_no_library(server, http):
    """Nor does what opens a WebSocket."""
    async with http.ws_connect(await open_url(http)) as socket:
        assert "Server" not in socket._response.headers


def unmasked(opcode, payload):
    """Return a frame that has no mask."""
    return bytes([0x80 | opcode, len(payload)]) + payload


@pytest.mark.parametrize("opcode", [1, 2, 9, 8])
async def test_a_frame_without_a_mask(server, http, opcode):
    """It closes with 1002, and the session is as it was."""
    url = await open_url(http)
    async with RawPeer.connected(url) as peer:
        await peer.send(frame(9, b"hello"))
        await peer.send(unmasked(opcode, b"\x03\xe8" if opcode == 8 else b"secret"))
        assert await peer.close_code() == 1002
    async with http.get(f"/v1/sessions/{session_of(url)}") as response:
        assert response.status == 200


async def test_a_message_that_grows_counts(data_dir):
    """What has come of a message is in flight; without room it closes with 1013, all given back."""
    import aiohttp

    limits = {"engine": "thread", "max_body_mb": 2, "max_inflight_mb": 3}
    async with (
        testing.serving(data_dir, **limits) as server,
        aiohttp.ClientSession(server.url, headers=server.headers) as http,
    ):
        budget = server.composed.budget
        first, second = await open_url(http), await open_url(http)
        async with RawPeer.connected(first) as one, RawPeer.connected(second) as two:
            await one.send(frame(BINARY, bytes(1_000_000), fin=False))
            await one.send(frame(CONTINUATION, bytes(900_000), fin=False))
            await until(lambda: budget.taken == 1_900_000)
            whole = frame(BINARY, bytes(1_900_000))
            await two.send(whole[:900_000])  # a part of one frame
            await until(lambda: budget.taken > 2_700_000)
            await two.send(whole[900_000:1_500_000])
            assert await two.close_code() == 1013
            await until(lambda: budget.taken == 1_900_000)
            await one.send(frame(CONTINUATION, b"end"))
            await until(lambda: budget.taken == 0)
        assert (await session_info(http, session_of(first)))["frames"] == 1


async def test_a_stranger_holds_nothing(server, http):
    """What comes without a key takes no room, however much it is, and is told 4001."""
    budget = server.composed.budget
    url = (await open_url(http)).replace("test-key", "wrong")
    async with RawPeer.connected(url) as peer:
        await peer.send(frame(BINARY, bytes(900_000), fin=False))
        await peer.send(frame(CONTINUATION, bytes(900_000), fin=False))
        assert await peer.close_code() == 4001
        assert budget.taken == 0


async def test_a_client_that_vanishes_in_a_message(server, http):
    """What it had sent is given back."""
    budget = server.composed.budget
    async with RawPeer.connected(await open_url(http)) as peer:
        await peer.send(frame(BINARY, bytes(500_000), fin=False))
        await until(lambda: budget.taken == 500_000)
        peer.abort()
    await until(lambda: budget.taken == 0)
