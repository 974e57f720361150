"""Connections to servers: each carries one request at a time, and is used again.

Below aiohttp's client, which costs several times as much per request: what passes through here is
looked at as little as can be.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from mataserver_fleet.gateway.http1 import MalformedError
from mataserver_fleet.gateway.incoming import IncomingResponse

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mataserver_fleet.gateway.http1 import Head
    from mataserver_fleet.gateway.resolving import AddressResolver
    from mataserver_fleet.gateway.snapshot import Target

CONNECT_SECONDS = 2.0
"""Seconds that a server may take to accept a connection."""
IDLE_SECONDS = 15.0
"""Seconds that an idle connection is kept: less than servers keep theirs."""
MAX_IDLE = 256
"""Idle connections that are kept to one server."""


class ConnectionEndedError(ConnectionError):
    """The server ended the connection before its answer was whole."""


class UpstreamConnection(IncomingResponse, asyncio.Protocol):
    """One connection. Raises ``ConnectionEndedError`` and ``MalformedError``.

    used:  whether it has carried a request before.
    since: when it was used last, once it was idle.
    """

    def __init__(self) -> None:
        super().__init__()
        self.since = 0.0
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._listener: Callable[[], None] | None = None
        self._is_full = False

    # the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Take a part of an answer."""
        try:
            self._feed(data)
        except MalformedError as error:
            self._fail(error)
        self._wake()

    def eof_received(self) -> None:
        """Take the end of an answer that ends with its connection."""
        if self._head is not None and self._remaining is None and self._chunks is None:
            self._ended = True
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end."""
        self._error = self._error or exc or ConnectionEndedError("the connection was closed")
        self._is_full = False
        self._wake()

    def pause_writing(self) -> None:
        """Note that the write buffer is full."""
        self._is_full = True

    def resume_writing(self) -> None:
        """Note that the write buffer has room again."""
        self._is_full = False
        self._wake()

    def _fail(self, error: Exception) -> None:
        self._error = error
        self.close()

    # the gateway's side

    @property
    def is_usable(self) -> bool:
        """Whether it can carry a request."""
        transport = self._transport
        return self._error is None and transport is not None and not transport.is_closing()

    @property
    def is_reusable(self) -> bool:
        """Whether it can carry another request now."""
        head = self._head
        whole = self._ended and self._sent and not self._paused  # else nothing more is read
        if self._transport is None or self._transport.get_write_buffer_size():
            return False  # answered before it had all: the next request would wait behind the rest
        return self.is_usable and whole and head is not None and head.keep_alive

    @property
    def is_full(self) -> bool:
        """Whether the write buffer is full: the server reads slower than it is sent to."""
        return self._is_full

    def begin_request(self) -> asyncio.Transport:
        """Begin a request; return what it is written to."""
        if self.used:
            self._reset()
        self.used = True
        assert self._transport is not None  # noqa: S101 - for the type checker: see ``is_usable``
        return self._transport

    def write(self, data: bytes | bytearray) -> None:
        """Write a part of a body; nothing once the connection has ended, which is told later.

        uvloop raises for a transport that is closed, and the end may be known there alone.
        """
        if self._transport is not None and self.is_usable:
            self._transport.write(data)

    def set_listener(self, listener: Callable[[], None] | None) -> None:
        """Have ``listener`` called when data has arrived or the connection has ended."""
        self._listener = listener

    def end_request(self) -> None:
        """Note that the whole of a request was written."""
        self._sent = True

    async def wait_writable(self) -> bool:
        """Wait until more may be written; return whether more is wanted: no answer yet."""
        while self._is_full and self._head is None:
            self._check()
            await self._wait()
        self._check()
        return self._head is None

    async def head(self) -> Head:
        """Return the head of the answer."""
        while self._head is None:
            self._check()
            await self._wait()
        return self._head

    async def chunk(self) -> bytes:
        """Return the next bytes of the body, empty after its end."""
        while not self._pieces:
            if self._ended:
                return b""
            self._check()
            await self._wait()
        data = self._drain()
        if self._paused and self._transport is not None and self._error is None:
            self._paused = False
            self._transport.resume_reading()
        return data

    def close(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.abort()

    def _check(self) -> None:
        if self._error is not None and not self._ended:
            raise (
                self._error
                if isinstance(self._error, MalformedError)
                else ConnectionEndedError("the server ended the connection")
            )

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._listener is not None:
            self._listener()
        elif self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class ConnectionPool:
    """The idle connections. ``clock`` gives seconds, ``resolver`` servers' addresses.

    ``connect_self`` connects to this server itself.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        resolver: AddressResolver,
        connect_self: Callable[[Callable[[], UpstreamConnection]], UpstreamConnection],
    ) -> None:
        self._clock = clock
        self._resolver = resolver
        self._connect_self = connect_self
        self._idle: dict[str, list[tuple[UpstreamConnection, float]]] = {}
        self._expiry_timer: asyncio.TimerHandle | None = None

    async def acquire(self, target: Target) -> UpstreamConnection:
        """Return a connection. Raises ``OSError``, of which ``TimeoutError`` is one."""
        connection = self.acquire_idle(target)
        if connection is not None:
            return connection
        if target.kind == "own":
            return self._connect_self(UpstreamConnection)
        async with asyncio.timeout(CONNECT_SECONDS):
            addresses = await self._resolver.addresses(target)
        return await _connect(addresses, target.port)

    def acquire_idle(self, target: Target) -> UpstreamConnection | None:
        """Return an idle connection, None without one."""
        idle, earliest = self._idle.get(target.authority), self._clock() - IDLE_SECONDS
        while idle:
            connection, since = idle.pop()
            connection.since = since
            if connection.is_usable and since > earliest:
                return connection
            connection.close()
        return None

    def release(
        self, target: Target, connection: UpstreamConnection, since: float | None = None
    ) -> None:
        """Keep a connection for another request, or end it.

        ``since`` is when it was used last, where that is not now.
        """
        idle = self._idle.setdefault(target.authority, [])
        if not connection.is_reusable or len(idle) >= MAX_IDLE:
            connection.close()
            return
        idle.append((connection, self._clock() if since is None else since))
        if self._expiry_timer is None:
            self._expiry_timer = asyncio.get_running_loop().call_later(
                IDLE_SECONDS, self._close_expired
            )

    def close(self) -> None:
        """End every idle connection."""
        self._close_idle(lambda _: True)
        if self._expiry_timer is not None:
            self._expiry_timer.cancel()

    def _close_expired(self) -> None:
        earliest = self._clock() - IDLE_SECONDS
        self._close_idle(lambda since: since <= earliest)
        self._expiry_timer = None
        if self._idle:
            self._expiry_timer = asyncio.get_running_loop().call_later(
                IDLE_SECONDS, self._close_expired
            )

    def _close_idle(self, old: Callable[[float], bool]) -> None:
        for authority, idle in list(self._idle.items()):
            kept = [
                (connection, since)
                for connection, since in idle
                if connection.is_usable and not old(since)
            ]
            for connection, since in idle:
                if old(since):
                    connection.close()
            self._idle[authority] = kept
            if not kept:
                del self._idle[authority]


async def _connect(addresses: Sequence[str], port: int) -> UpstreamConnection:
    """Return a connection to the first of some addresses that accepts one. Raises ``OSError``."""
    loop = asyncio.get_running_loop()
    failure: OSError = ConnectionEndedError("the server has no address")
    for address in addresses:
        try:
            async with asyncio.timeout(CONNECT_SECONDS / len(addresses)):
                _, connection = await loop.create_connection(UpstreamConnection, address, port)
        except OSError as error:
            failure = error
        else:
            if connection.is_usable:  # else it was ended again by now, and nothing was sent
                return connection
    raise failure
