"""Claimed requests whose bodies the service relays while they arrive.

Only what the service holds of a body is in memory. Reading is paused while the client is faster
than the relay; a client that sends next to nothing is rejected. If the answer precedes the end of
the body, the rest is read and discarded: no byte of it may be taken for another request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mataserver.http.head_claims import ClaimedRequest
from mataserver.http.head_connection import CachingConnection

if TYPE_CHECKING:
    from aiohttp import web

    from mataserver.contract.claims import BodySink, PlainAnswer, RepeatedClaim, Unfinished
    from mataserver.http.budget import BudgetShare
    from mataserver.http.head_cache import KnownHead, RequestStart

MIN_BYTES_PER_PERIOD = 1 << 15
"""Minimum bytes of a body that must arrive within each timeout period."""


def learn(request: web.Request, repeat: RepeatedClaim) -> None:
    """Answer further requests with the head of this claimed one by ``repeat``."""
    connection = request.protocol
    if isinstance(connection, CachingConnection):
        head = connection.take_head(request)
        if head:
            connection.heads.learn_claimed(head, request, repeat, StreamedRequest)


class StreamedRequest(ClaimedRequest):
    """One such request. While ``_answering``, the ``_left`` bytes are relayed or discarded.

    It implements ``Reading`` for the relay.
    """

    __slots__ = (
        "_has_held",
        "_is_paused",
        "_left_at_check",
        "_needed",
        "_sink",
        "_size",
        "_was_paused",
    )

    def __init__(self, connection: CachingConnection, known: KnownHead, share: BudgetShare) -> None:
        super().__init__(connection, known, share)
        self._needed: int | None = None
        self._sink: BodySink | None = None
        self._size = self._left_at_check = 0
        self._has_held = self._is_paused = self._was_paused = False

    def begin(self, data: bytes, head: RequestStart) -> None:
        """Process the first data; see ``KnownRequest``."""
        super().begin(data, head)
        if self._left:
            self._size, self._needed = head.size, self._responder.early(head.size)
            self._open()

    def receive(self, data: bytes) -> None:
        """Process further data; see ``KnownRequest``."""
        if self._answering and self._left:
            self._relay_body(data)
            return
        super().receive(data)
        if self._needed is not None and self._left and not self._released:
            self._open()

    def abandon(self) -> None:
        """Stop: the client has disconnected."""
        self._sink = None
        super().abandon()
        if self._timer is not None:  # the timer of an early answer
            self._timer.cancel()

    def pause(self) -> None:
        """Pause reading."""
        transport = self._connection.transport
        if transport is not None and not self._is_paused:
            self._is_paused = self._was_paused = True
            transport.pause_reading()

    def resume(self) -> None:
        """Resume reading."""
        if not self._is_paused:
            return
        self._is_paused = False
        transport = self._connection.transport
        if transport is not None and not transport.is_closing():
            transport.resume_reading()
        self._count_held()

    def _open(self) -> None:
        """Let the service relay the body from here, if enough has arrived and it does so."""
        needed, connection = self._needed, self._connection
        if needed is None or self._size - self._left < needed:
            return
        self._needed = None
        if not self._repeat.is_current():
            self._hand_over()
            return
        head = connection.shared_request(self._known)
        if head is None:
            return
        first, *others = self._pieces
        body, opens = (memoryview(first)[self._end :], *others), self._responder.open
        try:
            sink = connection.run_in_context(opens, head, self._size, body, self._finish, self)
        except Exception as error:
            self._answering = True
            if self._timer is not None:
                self._timer.cancel()  # it was the body's
            self._finish(error)
            return
        if sink is None:
            return
        self._sink, self._withdraw = sink, sink.withdraw
        self._answering, self._pieces, self._left_at_check = True, [], self._left
        self._count_held()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(self._known.seconds, self._check_pace)

    def _relay_body(self, data: bytes) -> None:
        """Relay a part of the body; keep what follows it until the answer."""
        more = data[: self._left]
        self._left -= len(more)
        sink = self._sink
        if sink is not None:
            sink.receive(more)
            if sink.held or self._has_held:  # most parts are relayed at once
                self._count_held()
        if len(more) < len(data):
            self._buffer_next(data[len(more) :])
        if self._left:
            return
        if self._timer is not None:
            self._timer.cancel()
        if self._released:  # already answered
            self._share.give_back()
            self._next()

    def _count_held(self) -> None:
        """Update the budget to the bytes in memory."""
        held = 0 if self._sink is None else self._sink.held
        self._has_held = held > 0
        self._share.give_back()
        if not self._released:
            self._share.hold(len(self._next_data) + held)

    def _check_pace(self) -> None:
        """Fail the request if next to nothing of its body arrived since the last check."""
        sink, came = self._sink, self._left_at_check - self._left
        if sink is None:
            return
        if came < MIN_BYTES_PER_PERIOD and not self._was_paused:
            sink.expire()
            return
        self._left_at_check, self._was_paused = self._left, self._is_paused
        self._timer = self._loop.call_later(self._known.seconds, self._check_pace)

    def _finish(self, result: PlainAnswer | Unfinished | Exception) -> None:
        self._sink = None
        self.resume()
        super()._finish(result)

    def _next(self) -> None:
        """Process the next request, once this one's body has arrived completely."""
        connection = self._connection
        if self._left:
            self._timer = self._loop.call_later(self._known.seconds, self._drop_connection)
            return
        if connection.is_ending:
            connection.end(at_once=True)
        super()._next()

    def _drop_connection(self) -> None:
        """Stop waiting for the rest of a body that is not needed."""
        self._connection.end(at_once=True)
