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

CONNECT = 2.0
"""Seconds that a server may take to accept a connection."""
IDLE = 15.0
"""Seconds that an idle connection is kept: less than servers keep theirs."""
SPARE = 256
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
        self._lost: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._listener: Callable[[], None] | None = None
        self._full = False

    # the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Take a part of an answer."""
        try:
            self._take(data)
        except MalformedError as error:
            self._fail(error)
        self._wake()

    def eof_received(self) -> None:
        """Take the end of an answer that ends with its connection."""
        if self._head is not None and self._left is None and self._chunks is None:
            self._ended = True
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end."""
        self._lost = self._lost or exc or ConnectionEndedError("the connection was closed")
        self._full = False
        self._wake()

    def pause_writing(self) -> None:
        """Send no more for now."""
        self._full = True

    def resume_writing(self) -> None:
        """Send on."""
        self._full = False
        self._wake()

    def _fail(self, error: Exception) -> None:
        self._lost = error
        self.close()

    # the gateway's side

    @property
    def usable(self) -> bool:
        """Whether it can carry a request."""
        transport = self._transport
        return self._lost is None and transport is not None and not transport.is_closing()

    @property
    def reusable(self) -> bool:
        """Whether it can carry another request now."""
        head = self._head
        whole = self._ended and self._sent and not self._paused  # else nothing more is read
        if self._transport is None or self._transport.get_write_buffer_size():
            return False  # answered before it had all: the next request would wait behind the rest
        return self.usable and whole and head is not None and head.keep

    @property
    def full(self) -> bool:
        """Whether the server takes less than it is sent."""
        return self._full

    def begin(self) -> asyncio.Transport:
        """Begin a request; return what it is written to."""
        if self.used:
            self._reset()
        self.used = True
        assert self._transport is not None  # noqa: S101 - for the type checker: see ``usable``
        return self._transport

    def listen(self, listener: Callable[[], None] | None) -> None:
        """Have ``listener`` called when something has come, or the connection has ended."""
        self._listener = listener

    def sent(self) -> None:
        """Note that the whole of a request was written."""
        self._sent = True

    async def drained(self) -> bool:
        """Wait until more may be written; return whether more is wanted: there is no answer yet."""
        while self._full and self._head is None:
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
        """Return what is here of the body, nothing after its end."""
        while not self._pieces:
            if self._ended:
                return b""
            self._check()
            await self._wait()
        data = self._taken()
        if self._paused and self._transport is not None and self._lost is None:
            self._paused = False
            self._transport.resume_reading()
        return data

    def close(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.abort()

    def _check(self) -> None:
        if self._lost is not None and not self._ended:
            raise (
                self._lost
                if isinstance(self._lost, MalformedError)
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
    """The connections that are idle. ``clock`` gives seconds, ``reaching`` servers' addresses.

    ``within`` connects to this server itself.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        reaching: AddressResolver,
        within: Callable[[Callable[[], UpstreamConnection]], UpstreamConnection],
    ) -> None:
        self._clock = clock
        self._reaching = reaching
        self._within = within
        self._idle: dict[str, list[tuple[UpstreamConnection, float]]] = {}
        self._sweep: asyncio.TimerHandle | None = None

    async def take(self, target: Target) -> UpstreamConnection:
        """Return a connection. Raises ``OSError``, of which ``TimeoutError`` is one."""
        link = self.idle(target)
        if link is not None:
            return link
        if target.kind == "own":
            return self._within(UpstreamConnection)
        async with asyncio.timeout(CONNECT):
            addresses = await self._reaching.addresses(target)
        return await _connected(addresses, target.port)

    def idle(self, target: Target) -> UpstreamConnection | None:
        """Return a connection that is there already."""
        idle, oldest = self._idle.get(target.authority), self._clock() - IDLE
        while idle:
            link, since = idle.pop()
            link.since = since
            if link.usable and since > oldest:
                return link
            link.close()
        return None

    def give_back(
        self, target: Target, link: UpstreamConnection, since: float | None = None
    ) -> None:
        """Keep a connection for another request, or end it.

        ``since`` is when it was used last, where that is not now.
        """
        idle = self._idle.setdefault(target.authority, [])
        if not link.reusable or len(idle) >= SPARE:
            link.close()
            return
        idle.append((link, self._clock() if since is None else since))
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(IDLE, self._end_old)

    def close(self) -> None:
        """End every idle connection."""
        self._end(lambda _: True)
        if self._sweep is not None:
            self._sweep.cancel()

    def _end_old(self) -> None:
        oldest = self._clock() - IDLE
        self._end(lambda since: since <= oldest)
        self._sweep = None
        if self._idle:
            self._sweep = asyncio.get_running_loop().call_later(IDLE, self._end_old)

    def _end(self, old: Callable[[float], bool]) -> None:
        for place, idle in list(self._idle.items()):
            kept = [(link, since) for link, since in idle if link.usable and not old(since)]
            for link, since in idle:
                if old(since):
                    link.close()
            self._idle[place] = kept
            if not kept:
                del self._idle[place]


async def _connected(addresses: Sequence[str], port: int) -> UpstreamConnection:
    """Return a connection to the first of some addresses that accepts one. Raises ``OSError``."""
    loop = asyncio.get_running_loop()
    failure: OSError = ConnectionEndedError("the server has no address")
    for address in addresses:
        try:
            async with asyncio.timeout(CONNECT / len(addresses)):
                _, link = await loop.create_connection(UpstreamConnection, address, port)
        except OSError as error:
            failure = error
        else:
            return link
    raise failure
