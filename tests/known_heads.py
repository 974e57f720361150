"""Connections to a server whose requests' heads it knows: written to, and read from."""

from __future__ import annotations

import asyncio
import contextlib
import re

import pytest

from api_answers import answer
from mataserver import testing
from mataserver.testing.serving import DEFAULTS
from odd_requests import INFER, JPEG, PICTURE, request

LONG = 20.0
"""Seconds that a test waits at most for what is to come."""
ASKED = request("POST", INFER, *JPEG, body=PICTURE)
HEAD = ASKED[: -len(PICTURE)]
SLOWLY = request("POST", f"{INFER}&seconds=0.2", *JPEG, body=PICTURE)
NONE = ASKED.replace(PICTURE, b"x" * len(PICTURE))
"""The same head, and no picture behind it."""


class Peer:
    """One connection to a server, of which bytes are written and answers read."""

    def __init__(self, served, reader, writer):
        self.cache = served.composed.heads
        self.lifecycle = served.composed.lifecycle
        self.budget = served.composed.budget
        self.reader = reader
        self.writer = writer

    async def ask(self, *pieces):
        """Write pieces one after the other; return the answer."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            await asyncio.sleep(0.002)
        return await self.read()

    async def read(self):
        """Return the next answer."""
        return await asyncio.wait_for(answer(self.reader), LONG)

    async def rest(self):
        """Return all that comes until the server closes the connection."""
        return await asyncio.wait_for(self.reader.read(), LONG)

    async def hits(self, *pieces):
        """Ask; return the answer, and how many requests were answered by a known head."""
        before = self.cache.hits
        found = await self.ask(*pieces)
        return found, self.cache.hits - before

    async def warm(self, asked=ASKED):
        """Have the server know a head: it is asked until it does."""
        if not DEFAULTS.get("short_way", True):
            pytest.skip("of servers that know heads")
        for _ in range(5):
            (status, _, _), hits = await self.hits(asked)
            assert status == 200
            if hits:
                return self
        pytest.fail("the head of a plain request is not known after five of them")


@contextlib.asynccontextmanager
async def peer_of(served):
    """Give a connection to a server."""
    host, port = served.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield Peer(served, reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@pytest.fixture
async def peer(server):
    """A connection to the server, which knows ``ASKED``'s head."""
    async with peer_of(server) as connected:
        yield await connected.warm()


@contextlib.asynccontextmanager
async def warm_peer(data_dir, **settings):
    """Give a connection to a server with settings of its own, which knows ``ASKED``'s head."""
    async with (
        testing.serving(data_dir, engine="thread", **settings) as served,
        peer_of(served) as connected,
    ):
        yield served, await connected.warm()


def label(found):
    """Return what the fake model says of a picture: its size."""
    return re.search(rb'"label":"(\d+x\d+)"', found[2])[1].decode()


def retitled(asked, old, new):
    """Return a request with something of its head changed."""
    assert old in asked
    return asked.replace(old, new, 1)
