"""Inferences that are forwarded and answered without a task: the plain ones, which most are.

A task, its timers and a response of aiohttp's cost as much as all the rest. So what is known of a
head, a server that is ready and a connection that is there are enough to send the request on, and
an answer that comes in one piece goes back from where it arrived. Everything else
continues in a task from its current state: nothing is sent twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from mataserver import MataError
from mataserver_fleet.gateway import headers
from mataserver_fleet.gateway.answers import problem
from mataserver_fleet.gateway.bodies import PIECE_BYTES, BufferedBody, SentBody
from mataserver_fleet.gateway.exchange import UpstreamRequest
from mataserver_fleet.gateway.fast_requests import FastRequest, Upstream
from mataserver_fleet.gateway.forwarding import Call, with_query
from mataserver_fleet.gateway.streamed_requests import IncomingBody, StreamedRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aiohttp import web

    from mataserver import BodySink, Reading
    from mataserver_fleet.gateway.connections import ConnectionPool
    from mataserver_fleet.gateway.fast_requests import CallHandler, Deliver
    from mataserver_fleet.gateway.known_heads import KnownHead
    from mataserver_fleet.gateway.limits import Admission
    from mataserver_fleet.gateway.selection import ServerSelector
    from mataserver_fleet.gateway.sequences import Destination
    from mataserver_fleet.gateway.servers import Servers
    from mataserver_fleet.gateway.snapshot import Consumer, Place

    Piece = bytes | memoryview
    Address = Callable[[web.Request], str]


class CountAnswer(Protocol):
    """Counts an answer."""

    def __call__(
        self,
        who: Consumer,
        place: Place,
        status: int,
        sizes: tuple[int, int],
        granted: Admission,
        /,
    ) -> None:
        """Count one that was granted then, and the bytes of both bodies."""


class FastPath:
    """Starts fast requests; ``handle_call`` answers those that need a task."""

    def __init__(
        self,
        servers: Servers,
        selector: ServerSelector,
        connections: ConnectionPool,
        admit: Callable[[Consumer, Place], Admission],
        handle_call: CallHandler,
        note: CountAnswer,
    ) -> None:
        self.servers = servers
        self.connections = connections
        self.handle_call = handle_call
        self._note = note
        self._selector = selector
        self._admit = admit

    def note(
        self, known: KnownHead, status: int, taken: int, given: int, granted: Admission
    ) -> None:
        """Count an answer, and the bytes of both bodies."""
        self._note(known.consumer, known.asked.place, status, (taken, given), granted)

    async def answer(self, known: KnownHead, call: Call) -> web.StreamResponse:
        """Answer a call in a task. Raises ``MataError`` children."""
        call.admission = self._admit(known.consumer, known.asked.place)
        return await self.handle_call(call)

    def begin(
        self,
        known: KnownHead,
        head: web.Request,
        address: str,
        body: Sequence[Piece],
        take: Deliver,
    ) -> Callable[[], None] | None:
        """Send a request on, unless it needs a task; see ``Responder.begin``."""
        size = sum(map(len, body))
        upstream = self._choose_upstream(known, body, size)
        if upstream is None:
            return None
        message = _message(known, head, address, upstream.destination, BufferedBody(body, size))
        attempt = FastRequest(self, known, upstream, message, take)
        application = known.asked.place.application
        attempt.send(application.timeout, movable=application.resend)
        return attempt.withdraw

    def early(self, known: KnownHead, size: int) -> int | None:
        """Return how much of a body must be here for ``open``; see ``Responder.early``.

        One that may have to be sent twice is gathered; so is one whose end must be looked at.
        """
        application, route = known.asked.place
        if size <= PIECE_BYTES or known.part is None or route.mirror or application.resend:
            return None
        return known.part.known_end(size)

    def open(
        self,
        known: KnownHead,
        head: web.Request,
        address: str,
        arrival: IncomingBody,
        take: Deliver,
    ) -> BodySink | None:
        """Send on a request while its body arrives; see ``Responder.open``."""
        upstream = self._choose_upstream(known, arrival.here, sum(map(len, arrival.here)))
        if upstream is None:
            return None
        message = _message(known, head, address, upstream.destination, SentBody(arrival.size))
        attempt = StreamedRequest(self, known, upstream, message, take)
        attempt.begin(arrival, known.asked.place.application.timeout)
        return attempt

    def _choose_upstream(
        self, known: KnownHead, body: Sequence[Piece], size: int
    ) -> Upstream | None:
        """Return whom to ask, and the connection, for a body of which ``size`` bytes are here.

        None where that needs a task.
        """
        place, version, _ = known.asked
        part = known.part
        if part is None or place.route.mirror or not part.needs_no_inspection(body, size):
            return None
        destination = self._selector.choose(place, version)
        if destination is None or destination.target.kind == "own":
            return None
        connection = self.connections.acquire_idle(destination.target)
        if connection is None:
            return None
        try:
            admission = self._admit(known.consumer, place)
        except MataError:
            self.connections.release(destination.target, connection, since=connection.since)
            return None  # and the task is refused
        return Upstream(destination, connection, admission)


def _message(
    known: KnownHead,
    head: web.Request,
    address: str,
    destination: Destination,
    body: BufferedBody | SentBody,
) -> UpstreamRequest:
    """Return what a server is sent."""
    fields = known.passed + headers.forwarded_for(address) + known.kind
    path = with_query(known.asked.place.route.path(destination.version, known.asked.verb), head)
    return UpstreamRequest("POST", path, fields, body, known.consumer.id)


class FastPathResponder:
    """Answers one inference whose head was answered before; see ``Responder``."""

    __slots__ = ("_address", "_context", "_head")

    def __init__(self, context: FastPath, known: KnownHead, address: Address) -> None:
        self._context = context
        self._head = known
        self._address = address

    async def answer(self, request: web.Request, body: bytes) -> web.StreamResponse:
        """Answer it in a task."""
        known = self._head
        fields = known.passed + headers.forwarded_for(self._address(request))
        call = Call(request, known.asked, known.consumer, fields)
        call.body = BufferedBody((body,), len(body))
        try:
            return await self._context.answer(known, call)
        except MataError as error:
            return problem(error)

    def begin(
        self, head: web.Request, body: Sequence[Piece], take: Deliver
    ) -> Callable[[], None] | None:
        """Begin to answer it without one."""
        return self._context.begin(self._head, head, self._address(head), body, take)

    def early(self, size: int) -> int | None:
        """Return how much of a body must be here for ``open``."""
        return self._context.early(self._head, size)

    def open(
        self,
        head: web.Request,
        size: int,
        body: Sequence[Piece],
        take: Deliver,
        reading: Reading,
    ) -> BodySink | None:
        """Begin to answer it without one while its body arrives."""
        arrival = IncomingBody(size, body, reading)
        return self._context.open(self._head, head, self._address(head), arrival, take)
