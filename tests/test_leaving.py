"""Who closes first: a client that has its answer, and one that left before it."""

from __future__ import annotations

import base64
import json
import logging
import re

import aiohttp
import pytest

from api_answers import connection, head_of, until
from conftest import picture, register
from mataserver import testing
from test_text_streaming import CHATTERBOX

PNG = picture()
URI = "data:image/png;base64," + base64.b64encode(PNG).decode()
ASKED = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "what?"},
            {"type": "image_url", "image_url": {"url": URI}},
        ],
    }
]
CHAT = json.dumps({"model": "fake-vlm", "messages": ASKED, "stream": True}).encode()
RAW = "/v1/infer?model={}&prompt=what"
STREAMS = {
    "/v1/chat/completions": (CHAT, ["Content-Type: application/json"], rb"\[DONE\]\n\n"),
    RAW.format("fake-vlm"): (
        PNG,
        ["Content-Type: image/png", "Accept: text/event-stream"],
        rb"event: result\ndata: .*\n\n",
    ),
}
TIMES = 12


async def counted(http, route: str) -> dict[str, int]:
    """Return how often each status was counted for a route."""
    async with http.get("/metrics") as response:
        text = await response.text()
    line = rf'^mataserver_requests_total{{.*route="{route}",status="(\w+)"}} (\d+)'
    return {status: int(count) for status, count in re.findall(line, text, re.MULTILINE)}


async def read_up_to(reader, pattern: bytes) -> bytes:
    """Read until ``pattern`` has come."""
    data = b""
    while not re.search(pattern, data):
        piece = await reader.read(65_536)
        assert piece, data
        data += piece
    return data


@pytest.mark.parametrize("path", STREAMS)
async def test_who_has_the_last_event_may_close(server, http, caplog, path):
    """A stream that was read to its end is 200 in the metrics, and nothing in the log."""
    body, headers, end = STREAMS[path]
    head = head_of(server, path, *headers, f"Content-Length: {len(body)}")
    with caplog.at_level(logging.INFO):
        for _ in range(TIMES):
            async with connection(server) as (reader, writer):
                writer.write(head + body)
                await read_up_to(reader, end)
        route = path.partition("?")[0]
        await until(lambda: _sum_is(http, route, TIMES))
    assert await counted(http, route) == {"200": TIMES}
    assert not [each for each in caplog.records if each.exc_info or each.levelno >= logging.WARNING]


async def _sum_is(http, route, count):
    return sum((await counted(http, route)).values()) == count


async def test_who_leaves_in_the_middle_of_a_stream(tmp_path, caplog):
    """A stream that its client left before its end is 499."""
    register(tmp_path, {"chatterbox": "vlm"})
    points = [testing.FAKE, CHATTERBOX]
    async with testing.serving(tmp_path, entry_points=points, engine="thread") as server:
        head = head_of(
            server,
            RAW.format("chatterbox"),
            *STREAMS[RAW.format("fake-vlm")][1],
            f"Content-Length: {len(PNG)}",
        )
        for _ in range(TIMES):
            async with connection(server) as (reader, writer):
                writer.write(head + PNG)
                await read_up_to(reader, rb"event: token")
        async with aiohttp.ClientSession(server.url, headers=server.headers) as http:
            await until(lambda: _sum_is(http, "/v1/infer", TIMES))
            assert await counted(http, "/v1/infer") == {"499": TIMES}
    assert not [each for each in caplog.records if each.exc_info]


@pytest.mark.parametrize("sent", [b"", PNG[:50]], ids=["nothing", "a part"])
async def test_who_leaves_in_the_middle_of_a_body(server, http, caplog, sent):
    """A request whose body never came whole is 499 without a traceback."""
    head = head_of(
        server, RAW.format("fake-detect"), "Content-Type: image/png", f"Content-Length: {len(PNG)}"
    )
    async with connection(server) as (_, writer):
        writer.write(head + sent)
        await writer.drain()
        await until(lambda: server.composed.lifecycle.active == 1)
    await until(lambda: _sum_is(http, "/v1/infer", 1))
    assert await counted(http, "/v1/infer") == {"499": 1}
    assert not [each for each in caplog.records if each.exc_info]


async def test_who_leaves_before_the_answer(server, http, caplog):
    """A request whose client did not wait for its answer is 499 without a traceback."""
    body = json.dumps({"model": "fake-detect", "image": URI, "params": {"seconds": 0.3}}).encode()
    head = head_of(
        server, "/v1/infer", "Content-Type: application/json", f"Content-Length: {len(body)}"
    )
    async with connection(server) as (_, writer):
        writer.write(head + body)
        await writer.drain()
        await until(lambda: server.composed.lifecycle.active == 1)
    await until(lambda: _sum_is(http, "/v1/infer", 1))
    assert await counted(http, "/v1/infer") == {"499": 1}
    assert not [each for each in caplog.records if each.exc_info]


async def test_who_leaves_a_socket_without_a_word(server, http):
    """A WebSocket that breaks off is counted as every other: it was a stream all the while."""
    async with http.post("/v1/sessions", json={"model": "fake-detect"}) as response:
        name = (await response.json())["session_id"]
    upgrade = ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
    upgrade.append("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
    async with connection(server) as (reader, writer):
        writer.write(head_of(server, f"/v1/stream/{name}", *upgrade, method="GET"))
        await reader.readuntil(b"\r\n\r\n")
        await until(lambda: server.composed.lifecycle.active == 1)
        writer.transport.abort()
    route = r"/v1/stream/{session_id}"
    await until(lambda: _sum_is(http, route, 1))
    assert await counted(http, route) == {"101": 1}
