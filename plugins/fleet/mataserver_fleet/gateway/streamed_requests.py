"""Bodies that are sent on while they arrive, without a task: large ones of plain inferences.

Nothing of them is kept, so that a request is sent once, and many at once take little memory. The
server gets pieces of some size however the body comes, and the client is read no faster than the
server takes it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mataserver_fleet.gateway.answers import linger, problem
from mataserver_fleet.gateway.bodies import LARGE, BodyTimeout, SentBody
from mataserver_fleet.gateway.fast_requests import FastRequest

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from aiohttp import web

    from mataserver import Reading
    from mataserver_fleet.gateway.connections import UpstreamConnection


class IncomingBody(NamedTuple):
    """A body that arrives: ``here`` is what has come of ``size`` bytes, not all of them."""

    size: int
    here: Sequence[bytes | memoryview]
    reading: Reading


class StreamedRequest(FastRequest):
    """A request whose body arrives while it is sent; see ``BodySink``.

    seconds: that the server may take no more of the body, and then until its answer begins.
    """

    __slots__ = ("_drops", "_left", "_moved", "_paused", "_reading", "_seconds", "_transport")

    def begin(self, arrival: IncomingBody, seconds: float) -> None:
        """Send the head, and what has come of the body."""
        link = self._link
        assert link is not None  # noqa: S101 - for the type checker: it is new
        self._reading, self._seconds = arrival.reading, seconds
        self._left = arrival.size - sum(map(len, arrival.here))
        self._drops = bytearray()
        self._paused = False
        self._moved = self._loop.time()
        self._deadline = self._until = self._moved + seconds
        self._timer = self._loop.call_at(self._deadline, self._look_late)
        self._server.begin()
        self._transport: asyncio.Transport = link.begin()
        self._transport.writelines((self._message.head(self._pin.target), *arrival.here))
        link.listen(self._look)
        self._heed(link)

    @property
    def held(self) -> int:
        """Bytes of the body that are in memory now."""
        unsent = 0 if self._link is None else self._transport.get_write_buffer_size()
        return len(self._drops) + unsent

    def receive(self, data: bytes | bytearray) -> None:
        """Send on what came next, or keep it until it is worth a piece."""
        link = self._link
        if link is None:
            return
        self._left -= len(data)
        if self._drops or (len(data) < LARGE and self._left):
            self._drops += data
            if len(self._drops) < LARGE and self._left:
                return
            data, self._drops = self._drops, bytearray()
        self._moved = self._loop.time()
        self._transport.write(data)
        if not self._left:
            link.sent()
            self._until = self._moved + self._seconds
        if link.full:
            self._heed(link)

    def expire(self) -> None:
        """Tell the client that its body does not come; the server is left without the rest."""
        link = self._link
        if link is not None:
            self._let_go(link)
            self._of.note(self._known, BodyTimeout.status, self._size, 0)
            self._take(_TimedOutBody())

    def _heed(self, link: UpstreamConnection) -> None:
        """Read no further while the server takes less than comes."""
        if link.full and self._left and not self._paused:
            self._paused = True
            self._reading.pause()

    def _look(self) -> None:
        link = self._link
        assert link is not None  # noqa: S101 - for the type checker: see ``FastRequest``
        if link.arrived is None and link.usable:
            if self._paused and not link.full:
                self._paused, self._moved = False, self._loop.time()
                self._reading.resume()
        elif self._left:  # it answers a part, or is gone
            self._hand_over()
        else:
            super()._look()

    def _look_late(self) -> None:
        """Give the server up if it is late: what the client takes is not its."""
        now, due = self._loop.time(), self._moved + self._seconds
        if not self._left or self._paused:
            if now >= due:
                self._until = now
                self._hand_over()
                return
        else:
            due = now + self._seconds
        self._timer = self._loop.call_at(due, self._look_late)

    @property
    def _size_told(self) -> int:
        body = self._message.body
        return 0 if body is None else body.size

    @property
    def _body(self) -> SentBody:
        return SentBody(self._size_told - self._left)


class _TimedOutBody:
    """A body that does not come."""

    async def finish(self, request: web.Request) -> web.StreamResponse:
        """Tell it."""
        linger(request)
        return problem(BodyTimeout("The body did not arrive in time"))

    def withdraw(self) -> None:
        """Nothing is held."""
