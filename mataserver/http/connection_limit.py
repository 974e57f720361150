"""Limit of open connections; further ones are answered with 503.

Each connection uses a file descriptor, as do workers, their memory and files, for which some are
reserved: a connection that would leave fewer is over the limit, whatever took the others (other
servers' connections, streams, a limit that was set too high). Without that the event loop's library
closes connections silently once there are none left, and no worker can start.

Over the limit a connection is answered without being read; a few at a time remain open until the
client has read the answer, the others are aborted.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
from typing import TYPE_CHECKING, cast

from aiohttp import web

from mataserver.errors import Unavailable
from mataserver.logs import RateLimitedLog

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver.http.protocol import HttpConnection

RESERVED_DESCRIPTORS = 256
"""File descriptors reserved for other purposes, if there are enough."""
UNLIMITED = 1_000_000
"""Limit of connections if the system has none."""
MAX_LINGERING = 16
"""Maximum number of rejected connections that remain open for their client to read: these, or an
eighth of the reserved descriptors."""
LINGER_SECONDS = 1.0
"""Timeout in seconds for each of them."""
MINUTE = 60.0
DETAIL = "Too many connections are open"
_BODY = b'{"detail":"%b"}' % DETAIL.encode()
_ANSWER = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
    b"Retry-After: 1\r\nConnection: close\r\n\r\n%b" % (len(_BODY), _BODY)
)

log = logging.getLogger("mataserver.http")


def default_limit() -> int:
    """Return the number of connections that the file descriptor limit allows."""
    soft = _open_files_limit()
    return UNLIMITED if soft is None else max(1, soft - reserved_descriptors(soft))


def reserved_descriptors(soft: int) -> int:
    """Return how many of ``soft`` file descriptors connections must leave."""
    return min(RESERVED_DESCRIPTORS, soft // 4)


def _open_files_limit() -> int | None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


class DescriptorReserve:
    """The file descriptors that connections must leave to workers and files.

    ``listener`` is the listening socket's. Connections may take half of those that are free when
    the server begins to listen, if the limit is so low that the reserve would leave them fewer.
    ``others`` are left to connections of other ports, which their library accepts without asking.
    """

    def __init__(self, listener: int, others: int = 0) -> None:
        self._listener = listener
        soft = _open_files_limit() or UNLIMITED
        used = self._next() or soft
        left = soft - others
        # Other ports leave HTTP a quarter of what is free, however many they may accept.
        half = max((left - used) // 2, (soft - used) // 4)
        self._end = max(left - reserved_descriptors(soft), used + half)
        self.lingering = max(1, min(MAX_LINGERING, (left - self._end) // 8))

    def is_reached(self) -> bool:
        """Whether another connection would leave fewer."""
        new = self._next()
        return new is None or new >= self._end

    def _next(self) -> int | None:
        """Return the number of a new descriptor: the lowest free one, so that all below are used.

        None if there is none.
        """
        try:
            new = os.dup(self._listener)
        except OSError:
            return None
        os.close(new)
        return new


class RejectedConnection(asyncio.Protocol):
    """A connection over the limit."""

    def __init__(self, lingering: set[RejectedConnection], most: int) -> None:
        self._lingering, self._most = lingering, most

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Answer, then close after a delay: closing at once could discard the answer."""
        made = cast(asyncio.Transport, transport)
        if len(self._lingering) >= self._most:
            made.abort()
            return
        self._lingering.add(self)
        made.write(_ANSWER)
        made.write_eof()
        asyncio.get_running_loop().call_later(LINGER_SECONDS, made.abort)

    def connection_lost(self, _exc: Exception | None) -> None:
        """Free the slot."""
        self._lingering.discard(self)


class ConnectionFactory:
    """Protocol factory of the server: accepts or rejects new connections."""

    def __init__(
        self, server: web.Server, limit: int, make_protocol: Callable[[web.Server], HttpConnection]
    ) -> None:
        self._server = server
        self._limit = limit
        self._make_protocol = make_protocol
        self._lingering: set[RejectedConnection] = set()
        self._refusals = RateLimitedLog(log, MINUTE)
        self.reserve: DescriptorReserve | None = None

    def __call__(self) -> HttpConnection | RejectedConnection:
        """Return the protocol of a new connection."""
        reason = self._refusal()
        if reason is None:
            return self.make_connection()
        self._refusals.warn(DETAIL, f"a connection was refused: {reason}")
        return RejectedConnection(
            self._lingering, MAX_LINGERING if self.reserve is None else self.reserve.lingering
        )

    def _refusal(self) -> str | None:
        count = len(self._server.connections)
        if count >= self._limit:
            return f"{self._limit} are open"
        if self.reserve is not None and self.reserve.is_reached():
            return (
                f"{count} are open, and the file descriptors that are left are for models and "
                "files: raise the limit of open files (ulimit -n)"
            )
        return None

    def make_connection(self) -> HttpConnection:
        """Return the protocol of an in-process connection, which uses no file descriptor."""
        return self._make_protocol(self._server)


class ListeningSite(web.BaseSite):
    """One listening address, with an ``ConnectionFactory`` as protocol factory.

    ``make_protocol`` creates a connection's protocol; ``others`` are the connections that other
    ports may have. ``factory`` exists once it listens.
    """

    __slots__ = ("_host", "_limit", "_make_protocol", "_others", "_port", "factory")

    def __init__(
        self,
        runner: web.AppRunner,
        host: str,
        port: int,
        limit: int,
        make_protocol: Callable[[web.Server], HttpConnection],
        others: int = 0,
    ) -> None:
        super().__init__(runner)
        self._host, self._port, self._others = host, port, others
        self._limit = limit or default_limit()
        self._make_protocol = make_protocol

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
        factory = self.factory = ConnectionFactory(server, self._limit, self._make_protocol)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            factory, self._host, self._port, backlog=self._backlog
        )
        factory.reserve = DescriptorReserve(self._server.sockets[0].fileno(), self._others)
