"""A server of a fleet that says when it reads a body, and how far."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket

from gateway_stand import application
from test_gateway_heads import Line, request

from mataserver_fleet.gateway.bodies import PIECE_BYTES
from mataserver_fleet.gateway.snapshot import Target

TENSORS = "Inference-Header-Content-Length: 2"
"""The line with which the JSON of a body is two bytes."""
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
OURS = 1 << 20
"""Bytes of one body that may be in the gateway's memory, whatever its size."""


def large(size=3_000_000):
    """Return a body with tensors."""
    return b"{}" + os.urandom(size - 2)


def tensors(body, *lines):
    """Return a request with tensors."""
    return request(body, TENSORS, *lines)


class Reader:
    """A server that says when it reads, and what: ``act`` is given a reader and a writer.

    came: bytes of the body of each request so far; ``ended`` how many connections have.
    """

    def __init__(self, act):
        self._act = act
        self.came = []
        self.ready = b"200 OK"
        self.ended = 0
        self._tasks = set()

    async def __aenter__(self):
        listening = socket.create_server(("127.0.0.1", 0))
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        self._server = await asyncio.start_server(self._serve, sock=listening, limit=1 << 16)
        self.target = Target("127.0.0.1", listening.getsockname()[1])
        return self

    async def __aexit__(self, *exc):
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader, writer):
        self._tasks.add(asyncio.current_task())
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if b"/ready " in head:
                    writer.write(b"HTTP/1.1 %b\r\nContent-Length: 0\r\n\r\n" % self.ready)
                    continue
                left = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                self.came.append(0)
                await self._act(self, Body(self, reader, left), writer)
        except (OSError, asyncio.IncompleteReadError):
            self.ended += 1
        except asyncio.CancelledError:
            pass  # the test is over
        finally:
            self._tasks.discard(asyncio.current_task())
            writer.close()


class Body:
    """A body of a request, to be read as far as a test likes; ``reads`` is what each read gave."""

    def __init__(self, server, reader, left):
        self._server, self._reader, self.left = server, reader, left
        self.number = len(server.came) - 1
        self.reads = []

    async def read(self, most=None):
        """Read some, or all that is left."""
        wanted = self.left if most is None else min(most, self.left)
        while wanted:
            data = await self._reader.read(min(wanted, 1 << 20))
            if not data:
                raise asyncio.IncompleteReadError(b"", wanted)
            self.reads.append(len(data))
            wanted -= len(data)
            self.left -= len(data)
            self._server.came[self.number] += len(data)


async def well(_server, body, writer):
    """Read a body and answer."""
    await body.read()
    writer.write(ANSWER)


@contextlib.asynccontextmanager
async def learnt(stand, act, **more):
    """Give a server and a connection whose head is known; what is small is answered well."""

    async def first(server, body, writer):
        await (act if body.left > PIECE_BYTES else well)(server, body, writer)

    async with Reader(first) as server:
        stand.follow(application(server.target, **more))
        async with Line(stand) as line:
            assert (await line.ask(tensors(b"{}")))[1] == b"hi"
            yield server, line


def free(stand, server):
    """Whether a server has nothing to do any more, and nothing of a body is in memory."""
    busy = stand.gateway.servers.get(server.target).outstanding
    return not busy and not stand.server.composed.budget.taken


async def count(stand):
    """Return what was counted of the one consumer."""
    (found,) = stand.gateway.usage.total.values()
    return found.requests, found.failed, found.bytes_in
