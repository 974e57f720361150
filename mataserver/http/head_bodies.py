"""Requests that a service claimed and whose bodies it passes on while they arrive.

What of a body is in memory is what the service holds of it. Who sends faster than it can pass that
on is read no further; who sends next to nothing is refused. Where the answer comes before the whole
body the rest is read and dropped: no byte of it may be taken for another request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mataserver.http.head_cache import Claim
from mataserver.http.head_claims import ClaimedHit, Settled
from mataserver.http.head_connection import CachingConversation

if TYPE_CHECKING:
    from aiohttp import web

    from mataserver.contract.claims import BodySink, PlainAnswer, RepeatedClaim, Unfinished
    from mataserver.http.head_cache import KnownClaim
    from mataserver.http.head_parsing import Beginning
    from mataserver.http.middleware import Edge
    from mataserver.http.unread_output import Portion

LEAST = 1 << 15
"""Bytes of a body that come at least within the seconds that one may pause."""


def learn(request: web.Request, repeat: RepeatedClaim) -> None:
    """Have requests with the head of one that a service claimed be answered by ``repeat``."""
    conversation = request.protocol
    if isinstance(conversation, CachingConversation):
        conversation.learn_claimed(request, Claim(repeat, ArrivingHit))


class ArrivingHit(ClaimedHit):
    """One of them. ``_answering`` with bytes ``_left``: those are passed on, or dropped.

    It is the ``Reading`` of what passes them on.
    """

    __slots__ = ("_before", "_holds", "_is_paused", "_needed", "_sink", "_size", "_was_paused")

    def __init__(
        self, conversation: CachingConversation, edge: Edge, known: KnownClaim, share: Portion
    ) -> None:
        super().__init__(conversation, edge, known, share)
        self._needed: int | None = None
        self._sink: BodySink | None = None
        self._size = self._before = 0
        self._holds = self._is_paused = self._was_paused = False

    def begin(self, data: bytes, head: Beginning) -> None:
        """Take what came first; see ``Hit``."""
        super().begin(data, head)
        if self._left:
            self._size, self._needed = head.size, self._responder.early(head.size)
            self._open()

    def receive(self, data: bytes) -> None:
        """Take what came then; see ``Hit``."""
        if self._answering and self._left:
            self._pass_on(data)
            return
        super().receive(data)
        if self._needed is not None and self._left and not self._released:
            self._open()

    def abandon(self) -> None:
        """Stop: the client has left."""
        self._sink = None
        super().abandon()
        if self._timer is not None:  # that of an answer which came early
            self._timer.cancel()

    def pause(self) -> None:
        """Read no more for now."""
        transport = self._conversation.transport
        if transport is not None and not self._is_paused:
            self._is_paused = self._was_paused = True
            transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if not self._is_paused:
            return
        self._is_paused = False
        transport = self._conversation.transport
        if transport is not None and not transport.is_closing():
            transport.resume_reading()
        self._count_held()

    def _open(self) -> None:
        """Have the service pass the body on from here, if enough of it is here, and it does so."""
        needed, conversation = self._needed, self._conversation
        if needed is None or self._size - self._left < needed:
            return
        self._needed = None
        head = conversation.head(self._known)
        if head is None:
            return
        first, *others = self._pieces
        body, opens = (memoryview(first)[self._end :], *others), self._responder.open
        try:
            sink = conversation.within(opens, head, self._size, body, self._finish, self)
        except Exception as error:
            self._answering = True
            if self._timer is not None:
                self._timer.cancel()  # it is the body's
            self._finish(Settled(error))
            return
        if sink is None:
            return
        self._sink, self._withdraw = sink, sink.withdraw
        self._answering, self._pieces, self._before = True, [], self._left
        self._count_held()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(self._known.seconds, self._keep_pace)

    def _pass_on(self, data: bytes) -> None:
        """Pass on what came of the body; what is behind it waits for the answer."""
        more = data[: self._left]
        self._left -= len(more)
        sink = self._sink
        if sink is not None:
            sink.receive(more)
            if sink.held or self._holds:  # most pieces are gone at once
                self._count_held()
        if len(more) < len(data):
            self._wait_with(data[len(more) :])
        if self._left:
            return
        if self._timer is not None:
            self._timer.cancel()
        if self._released:  # it is answered
            self._share.give_back()
            self._next()

    def _count_held(self) -> None:
        """Have count in the budget what is in memory."""
        held = 0 if self._sink is None else self._sink.held
        self._holds = held > 0
        self._share.give_back()
        if not self._released:
            self._share.hold(len(self._early) + held)

    def _keep_pace(self) -> None:
        """Give the request up where next to nothing has come of its body since the last look."""
        sink, came = self._sink, self._before - self._left
        if sink is None:
            return
        if came < LEAST and not self._was_paused:
            sink.expire()
            return
        self._before, self._was_paused = self._left, self._is_paused
        self._timer = self._loop.call_later(self._known.seconds, self._keep_pace)

    def _finish(self, found: PlainAnswer | Unfinished) -> None:
        self._sink = None
        self.resume()
        super()._finish(found)

    def _next(self) -> None:
        """Take the next request, once the whole body of this one has come."""
        conversation = self._conversation
        if self._left:
            self._timer = self._loop.call_later(self._known.seconds, self._cut_off)
            return
        if conversation.is_ending:
            conversation.hang_up(at_once=True)
        super()._next()

    def _cut_off(self) -> None:
        """Wait no longer for the rest of a body that nobody needs."""
        self._conversation.hang_up(at_once=True)
