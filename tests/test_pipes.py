"""Connections within the process behave as sockets do, and what comes by one is judged as any."""

from __future__ import annotations

import asyncio
import contextvars
import importlib.metadata
import json
import os

import aiohttp
import pytest

from mataserver import ANYBODY, PRINCIPAL, Route, Unavailable, hookimpl, plugins
from mataserver.http.in_process import HIGH_WATER, InProcessConnector, InProcessTransport


class Side(asyncio.Protocol):
    """Notes what it is told."""

    def __init__(self):
        self.got = bytearray()
        self.told = []
        self.half_open = False

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.got += data

    def eof_received(self):
        self.told.append("eof")
        return self.half_open

    def pause_writing(self):
        self.told.append("pause")

    def resume_writing(self):
        self.told.append("resume")

    def connection_lost(self, exc):
        self.told.append(type(exc).__name__)


def joined():
    """Return both sides of a connection."""
    near, far = Side(), Side()
    loop = asyncio.get_running_loop()
    InProcessTransport(near, loop).connect_to(InProcessTransport(far, loop))
    return near, far


async def turns(count=5):
    """Let the event loop go round."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_bytes_arrive_in_order_and_not_at_once():
    """Nothing is delivered within the call that wrote it; a buffer that is used again is copied."""
    near, far = joined()
    buffer = bytearray(b"ab")
    near.transport.write(buffer)
    buffer[:] = b"xx"
    near.transport.writelines([b"cd", memoryview(b"ef")])
    far.transport.write(b"back")
    assert (far.got, near.got) == (b"", b"")
    await turns()
    assert (far.got, near.got) == (b"abcdef", b"back")


async def test_who_does_not_read_holds_up_who_writes():
    """Above the limit the writer is told to pause, and to go on once most of it was read."""
    near, far = joined()
    far.transport.pause_reading()
    near.transport.write(bytes(HIGH_WATER + 1))
    await turns()
    assert (near.told, len(far.got)) == (["pause"], 0)
    assert near.transport.get_write_buffer_size() == HIGH_WATER + 1
    near.transport.write(b"more")
    far.transport.resume_reading()
    await turns()
    assert (near.told, len(far.got)) == (["pause", "resume"], HIGH_WATER + 5)
    near.transport.set_write_buffer_limits(high=10)
    near.transport.write(bytes(11))
    assert near.told[-1] == "pause"


async def test_a_side_that_closes():
    """What it wrote arrives, then the end; what is written to it afterwards does not matter."""
    near, far = joined()
    near.transport.write(b"last words")
    near.transport.close()
    near.transport.write(b"too late")
    far.transport.write(b"unread")
    await turns()
    assert (far.got, far.told) == (b"last words", ["eof", "NoneType"])
    assert (near.got, near.told) == (b"", ["NoneType"])


async def test_a_side_that_ends_its_half():
    """It still reads, where the other goes on."""
    near, far = joined()
    far.half_open = True
    near.transport.write_eof()
    await turns()
    far.transport.write(b"answer")
    await turns()
    assert (near.got, near.told, far.told) == (b"answer", [], ["eof"])


async def test_a_side_that_aborts():
    """Both end, and nobody waits for somebody who reads no more."""
    near, far = joined()
    far.transport.pause_reading()
    near.transport.write(bytes(2 * HIGH_WATER))
    far.transport.abort()
    await turns()
    assert near.told == ["pause", "ConnectionResetError"]
    assert far.told == ["NoneType"]
    assert near.transport.is_closing()


async def test_a_protocol_that_raises():
    """Its connection ends, and the event loop hears of it."""
    near, far = joined()
    heard = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: heard.append(told))

    def fail(_data):
        raise RuntimeError("as it was told")

    far.data_received = fail
    near.transport.write(b"a")
    await turns()
    assert (near.told, far.told, len(heard)) == (["ConnectionResetError"], ["NoneType"], 1)


def test_nobody_listens_yet():
    """A plugin that is too early is told so."""
    with pytest.raises(Unavailable):
        InProcessConnector().connect(Side)


MOOD = contextvars.ContextVar("mood", default="own")


class Asking:
    """A service that asks its own server without a socket."""

    def __init__(self, ctx):
        self._ctx = ctx
        self.who = None

    def routes(self):
        return [
            Route("POST", "/who", self._who, needs=ANYBODY),
            Route("GET", "/ask", self._ask, public=True),
        ]

    async def __aenter__(self):
        return self

    async def __aexit__(self, *exc):
        pass

    async def _who(self, request):
        body = await request.read()
        told = [request[PRINCIPAL].name, len(body), request.get_extra_info("pipe"), MOOD.get()]
        return self._ctx.http.respond(told)

    async def _ask(self, request):
        MOOD.set("another's")
        side = self._ctx.http.connect(Side)
        size = int(request.query["size"])
        lines = ["POST /who HTTP/1.1", "Host: a", f"Content-Length: {size}", "Connection: close"]
        if key := request.query.get("key"):
            lines.append(f"Authorization: Bearer {key}")
        side.transport.write("\r\n".join([*lines, "", ""]).encode() + os.urandom(size))
        async with asyncio.timeout(30):
            while "eof" not in side.told:
                await asyncio.sleep(0.001)
        head, _, body = bytes(side.got).partition(b"\r\n\r\n")
        return self._ctx.http.respond([head.split(b"\r\n")[0].decode(), body.decode()])


@hookimpl
def service(ctx):
    return Asking(ctx)


POINT = importlib.metadata.EntryPoint("asking", __name__, plugins.GROUP)


async def test_a_request_that_comes_by_one(mata_server):
    """It is judged by what it shows and answered as any, in a context of its own."""
    server = await mata_server(POINT)
    async with aiohttp.ClientSession() as http:

        async def asked(**query):
            async with http.get(f"{server.url}/ask", params=query) as answer:
                assert answer.status == 200
                return await answer.json()

        assert (await asked(size=0))[0] == "HTTP/1.1 401 Unauthorized"
        assert (await asked(size=0, key="nobody's"))[0] == "HTTP/1.1 403 Forbidden"
        for size in (0, 60_000, 3_000_000):
            line, body = await asked(size=size, key=server.key)
            assert line == "HTTP/1.1 200 OK", body
            assert json.loads(body)[1:] == [size, True, "own"]
