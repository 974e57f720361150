"""A request that was sent to a server without a task, until it is answered.

An answer that arrives in one piece is returned from its callback. Everything else
continues in a task from its current state: nothing is sent twice.
"""

from __future__ import annotations

import asyncio
import functools
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple, Protocol

from mataserver import MataError, PlainAnswer
from mataserver_fleet.gateway import headers
from mataserver_fleet.gateway.answers import problem
from mataserver_fleet.gateway.bodies import BufferedBody
from mataserver_fleet.gateway.exchange import SentMessage
from mataserver_fleet.gateway.forwarding import Call, FirstAttempt
from mataserver_fleet.gateway.http1 import CACHED_HEAD_BYTES
from mataserver_fleet.gateway.relaying import CLIENT_CLOSED, SMALL_RESPONSE_BYTES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp import web

    from mataserver import Unfinished
    from mataserver_fleet.gateway.bodies import SentBody, StreamingBody
    from mataserver_fleet.gateway.connections import ConnectionPool, UpstreamConnection
    from mataserver_fleet.gateway.exchange import UpstreamRequest
    from mataserver_fleet.gateway.http1 import Fields, Head
    from mataserver_fleet.gateway.known_heads import KnownHead
    from mataserver_fleet.gateway.limits import Admission
    from mataserver_fleet.gateway.sequences import Destination
    from mataserver_fleet.gateway.servers import Server, Servers

    Deliver = Callable[[PlainAnswer | Unfinished], None]


class CallHandler(Protocol):
    """Answers a call in a task, and counts it. Raises ``MataError`` children."""

    def __call__(
        self, call: Call, *, first: FirstAttempt | None = None
    ) -> Awaitable[web.StreamResponse]:
        """Answer one, of which ``first`` was tried."""


class FastPathContext(Protocol):
    """The parts of the gateway that a fast request uses."""

    servers: Servers
    connections: ConnectionPool
    handle_call: CallHandler

    def note(
        self, known: KnownHead, status: int, taken: int, given: int, granted: Admission
    ) -> None:
        """Count an answer to what was granted then, and the bytes of both bodies."""


class Upstream(NamedTuple):
    """Whom a request that was granted is sent to, and by which connection."""

    destination: Destination
    connection: UpstreamConnection
    admission: Admission


class FastRequest:
    """A request in flight without a task."""

    __slots__ = (
        "_admission",
        "_connection",
        "_context",
        "_deadline",
        "_deliver",
        "_destination",
        "_expires",
        "_head",
        "_loop",
        "_message",
        "_server",
        "_timer",
    )  # fmt: skip

    def __init__(
        self,
        context: FastPathContext,
        known: KnownHead,
        upstream: Upstream,
        message: UpstreamRequest,
        take: Deliver,
    ) -> None:
        self._context = context
        self._head = known
        self._destination, connection, self._admission = upstream
        self._connection: UpstreamConnection | None = connection
        self._message = message
        self._deliver = take
        self._server: Server = context.servers.get(self._destination.target)
        self._loop = asyncio.get_running_loop()

    def send(self, seconds: float, *, movable: bool) -> None:
        """Send it; ``movable`` as for an ``Exchange``."""
        connection, body = self._connection, self._message.body
        assert connection is not None  # noqa: S101 - for the type checker: it is new
        assert isinstance(body, BufferedBody)  # noqa: S101 - for the type checker
        head = self._message.head(self._destination.target)
        self._deadline = self._expires = self._loop.time() + seconds
        self._timer = self._loop.call_at(self._deadline, self._hand_to_task)
        self._server.begin(self if movable else None)
        transport = connection.begin_request()
        transport.writelines((head, *body.pieces))
        connection.end_request()
        connection.set_listener(self._on_progress)

    # the timer that ``Server.mark_dead`` uses

    def expired(self) -> bool:
        """Whether its time is over."""
        return self._connection is None

    def reschedule(self, when: float) -> None:
        """Have its time be over."""
        self._timer.cancel()
        self._expires = when
        self._timer = self._loop.call_at(when, self._hand_to_task)

    # the answer

    def _on_progress(self) -> None:
        """Answer, where the answer has arrived in one piece."""
        connection = self._connection
        assert connection is not None  # noqa: S101 - for the type checker: else the listener is unset
        head = connection.received_head
        if head is None and connection.is_usable:
            return
        if head is None or head.status != 200 or not connection.is_complete or not _is_short(head):
            self._hand_to_task()
            return
        body = connection.received_body()
        self._release_connection(connection)
        self._context.note(self._head, 200, self._size, len(body), self._admission)
        self._deliver(PlainAnswer(_response_headers(head.fields), body))

    def _hand_to_task(self) -> None:
        """Hand the request over to a task."""
        connection = self._connection
        assert connection is not None  # noqa: S101 - for the type checker: see ``_on_progress``
        self._stop_waiting(connection)
        self._deliver(self)

    async def finish(self, request: web.Request) -> web.StreamResponse:
        """Answer in a task."""
        connection, self._connection = self._connection, None
        assert connection is not None  # noqa: S101 - for the type checker: it was not withdrawn
        self._server.end()  # the task counts it
        known, message = self._head, self._message
        call = Call(request, known.asked, known.consumer, message.fields)
        call.body, call.admission = self._body, self._admission
        first = FirstAttempt(
            self._destination, SentMessage(connection, self._expires), self._deadline
        )
        try:
            return await self._context.handle_call(call, first=first)
        except MataError as error:
            return problem(error)

    def withdraw(self) -> None:
        """Cancel the request: its client has left."""
        connection = self._connection
        if connection is not None:
            self._release_connection(connection)
            self._context.note(self._head, CLIENT_CLOSED, self._size, 0, self._admission)

    @property
    def _body(self) -> BufferedBody | StreamingBody | SentBody | None:
        """The body as a task sees it."""
        return self._message.body

    @property
    def _size(self) -> int:
        """Bytes of the body that have arrived."""
        body = self._body
        return 0 if body is None else body.size

    def _stop_waiting(self, connection: UpstreamConnection) -> None:
        """Stop listening to the connection, and stop the timer."""
        connection.set_listener(None)
        self._timer.cancel()
        self._server.release(self)

    def _release_connection(self, connection: UpstreamConnection) -> None:
        """Release the connection and the server's slot."""
        self._stop_waiting(connection)
        self._connection = None
        self._server.end()
        self._context.connections.release(self._destination.target, connection)


def _is_short(head: Head) -> bool:
    """Whether an answer has a length, and is small enough to be sent in one piece."""
    return head.length is not None and head.length <= SMALL_RESPONSE_BYTES


def _response_headers(given: Fields) -> tuple[tuple[str, str], ...]:
    """Return the header of an answer; short ones repeat, so they are cached."""
    is_short = sum(map(len, chain.from_iterable(given))) <= CACHED_HEAD_BYTES
    return _cached_response_headers(given) if is_short else _build_response_headers(given)


def _build_response_headers(given: Fields) -> tuple[tuple[str, str], ...]:
    fields = headers.response_headers(given)
    if not any(name.lower() == "content-type" for name, _ in fields):
        fields.append(("Content-Type", headers.BINARY))
    return tuple(fields)


_cached_response_headers = functools.lru_cache(256)(_build_response_headers)
