"""How many connections are open at a time; who comes when there are too many is told 503.

Each takes a file descriptor, and so do models' workers, their memory and files: some are kept for
these. Above the limit a connection is answered without being read, and a few at a time wait for
their client to have read that; the others are cut off.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from typing import TYPE_CHECKING, cast

from aiohttp import web

from mataserver.errors import Unavailable
from mataserver.logs import Repeats

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver.http.protocol import Conversation

KEPT = 256
"""File descriptors that connections leave to everything else, where there are enough."""
ENDLESS = 1_000_000
"""Connections where the system sets no limit."""
WAITING = 16
"""Refused connections that may wait at a time for their client to read why."""
PATIENCE = 1.0
"""Seconds that each of them has."""
MINUTE = 60.0
DETAIL = "Too many connections are open"
_BODY = b'{"detail":"%b"}' % DETAIL.encode()
_ANSWER = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
    b"Retry-After: 1\r\nConnection: close\r\n\r\n%b" % (len(_BODY), _BODY)
)

log = logging.getLogger("mataserver.http")


def default_limit() -> int:
    """Return how many connections the process's file descriptors suffice for."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return ENDLESS
    return max(1, soft - min(KEPT, soft // 4))


class Refusal(asyncio.Protocol):
    """A connection that is one too many."""

    def __init__(self, waiting: set[Refusal]) -> None:
        self._waiting = waiting

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Answer, and wait a moment: to close at once would overtake the answer."""
        made = cast(asyncio.Transport, transport)
        if len(self._waiting) >= WAITING:
            made.abort()
            return
        self._waiting.add(self)
        made.write(_ANSWER)
        made.write_eof()
        asyncio.get_running_loop().call_later(PATIENCE, made.abort)

    def connection_lost(self, _exc: Exception | None) -> None:
        """Make room for the next."""
        self._waiting.discard(self)


class Entrance:
    """Makes what serves each new connection, or refuses it."""

    def __init__(
        self, server: web.Server, limit: int, converse: Callable[[web.Server], Conversation]
    ) -> None:
        self._server = server
        self._limit = limit
        self._converse = converse
        self._waiting: set[Refusal] = set()
        self._refusals = Repeats(log, MINUTE)

    def __call__(self) -> Conversation | Refusal:
        """Return the protocol of a new connection."""
        if len(self._server.connections) < self._limit:
            return self.within()
        self._refusals.note(DETAIL, f"a connection was refused: {self._limit} are open")
        return Refusal(self._waiting)

    def within(self) -> Conversation:
        """Return the protocol of a connection within the process, which takes no descriptor."""
        return self._converse(self._server)


class Site(web.BaseSite):
    """One address that the server listens on, through an ``Entrance``.

    ``converse`` makes what serves a connection. ``entrance`` is there once it listens.
    """

    __slots__ = ("_converse", "_host", "_limit", "_port", "entrance")

    def __init__(
        self,
        runner: web.AppRunner,
        host: str,
        port: int,
        limit: int,
        converse: Callable[[web.Server], Conversation],
    ) -> None:
        super().__init__(runner)
        self._host, self._port = host, port
        self._limit = limit or default_limit()
        self._converse = converse

    @property
    def name(self) -> str:
        """The address."""
        return f"http://{self._host}:{self._port}"

    async def start(self) -> None:
        """Listen. Raises ``OSError``."""
        await super().start()
        server = self._runner.server
        if server is None:
            raise Unavailable("The server is shutting down")
        entrance = self.entrance = Entrance(server, self._limit, self._converse)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            entrance, self._host, self._port, backlog=self._backlog
        )
