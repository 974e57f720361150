"""Bodies that are sent on while they arrive, without a task: large ones of plain inferences.

Nothing of them is kept, so that a request is sent once, and many at once take little memory. The
server gets pieces of some size however the body comes, and the client is read no faster than the
server takes it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mataserver_fleet.gateway.answers import linger, problem
from mataserver_fleet.gateway.bodies import LARGE_PIECE_BYTES, BodyTimeout, SentBody
from mataserver_fleet.gateway.fast_requests import FastRequest

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from aiohttp import web

    from mataserver import Reading
    from mataserver_fleet.gateway.connections import UpstreamConnection


class IncomingBody(NamedTuple):
    """A body that is arriving: ``here`` is what has arrived of ``size`` bytes, not all of them."""

    size: int
    here: Sequence[bytes | memoryview]
    reading: Reading


class StreamedRequest(FastRequest):
    """A request whose body arrives while it is sent; see ``BodySink``.

    seconds: that the server may take no more of the body, and then until its answer begins.
    """

    __slots__ = (
        "_buffered",
        "_paused",
        "_progressed_at",
        "_reading",
        "_remaining",
        "_seconds",
        "_transport",
    )

    def begin(self, arrival: IncomingBody, seconds: float) -> None:
        """Send the head, and what has arrived of the body."""
        connection = self._connection
        assert connection is not None  # noqa: S101 - for the type checker: it is new
        self._reading, self._seconds = arrival.reading, seconds
        self._remaining = arrival.size - sum(map(len, arrival.here))
        self._buffered = bytearray()
        self._paused = False
        self._progressed_at = self._loop.time()
        self._deadline = self._expires = self._progressed_at + seconds
        self._timer = self._loop.call_at(self._deadline, self._check_timeout)
        self._server.begin()
        self._transport: asyncio.Transport = connection.begin_request()
        self._transport.writelines((self._message.head(self._destination.target), *arrival.here))
        connection.set_listener(self._on_progress)
        self._apply_back_pressure(connection)

    @property
    def held(self) -> int:
        """Bytes of the body that are in memory now."""
        unsent = 0 if self._connection is None else self._transport.get_write_buffer_size()
        return len(self._buffered) + unsent

    def receive(self, data: bytes | bytearray) -> None:
        """Forward the next bytes, or buffer them up to a large enough piece."""
        connection = self._connection
        if connection is None:
            return
        self._remaining -= len(data)
        if self._buffered or (len(data) < LARGE_PIECE_BYTES and self._remaining):
            self._buffered += data
            if len(self._buffered) < LARGE_PIECE_BYTES and self._remaining:
                return
            data, self._buffered = self._buffered, bytearray()
        self._progressed_at = self._loop.time()
        connection.write(data)
        if not self._remaining:
            connection.end_request()
            self._expires = self._progressed_at + self._seconds
        if connection.is_full:
            self._apply_back_pressure(connection)

    def expire(self) -> None:
        """Answer that the body did not arrive in time; the server does not get the rest."""
        connection = self._connection
        if connection is not None:
            self._release_connection(connection)
            self._context.note(self._head, BodyTimeout.status, self._size, 0, self._admission)
            self._deliver(_TimedOutBody())

    def _apply_back_pressure(self, connection: UpstreamConnection) -> None:
        """Pause reading while the server takes less than arrives."""
        if connection.is_full and self._remaining and not self._paused:
            self._paused = True
            self._reading.pause()

    def _on_progress(self) -> None:
        connection = self._connection
        assert connection is not None  # noqa: S101 - for the type checker: see ``FastRequest``
        if connection.received_head is None and connection.is_usable:
            if self._paused and not connection.is_full:
                self._paused, self._progressed_at = False, self._loop.time()
                self._reading.resume()
        elif self._remaining:  # it answers a part, or is gone
            self._hand_to_task()
        else:
            super()._on_progress()

    def _check_timeout(self) -> None:
        """Give the server up if it is late; time spent waiting for the client does not count."""
        now, due = self._loop.time(), self._progressed_at + self._seconds
        if not self._remaining or self._paused:
            if now >= due:
                self._expires = now
                self._hand_to_task()
                return
        else:
            due = now + self._seconds
        self._timer = self._loop.call_at(due, self._check_timeout)

    @property
    def _declared_size(self) -> int:
        body = self._message.body
        return 0 if body is None else body.size

    @property
    def _body(self) -> SentBody:
        return SentBody(self._declared_size - self._remaining)


class _TimedOutBody:
    """The answer to a body that did not arrive in time."""

    async def finish(self, request: web.Request) -> web.StreamResponse:
        """Answer 408, and close the connection."""
        linger(request)
        return problem(BodyTimeout("The body did not arrive in time"))

    def withdraw(self) -> None:
        """Nothing is held."""
