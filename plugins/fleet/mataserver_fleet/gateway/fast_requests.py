"""A request that was sent to a server without a task: what becomes of it.

An answer that comes in one piece goes back from where it arrived. Whatever is otherwise goes on in
a task, where it stands: nothing is sent twice.
"""

from __future__ import annotations

import asyncio
import functools
from itertools import chain
from typing import TYPE_CHECKING, Protocol

from mataserver import MataError, PlainAnswer
from mataserver_fleet.gateway import headers
from mataserver_fleet.gateway.answers import problem
from mataserver_fleet.gateway.bodies import BufferedBody
from mataserver_fleet.gateway.exchange import SentMessage
from mataserver_fleet.gateway.forwarding import Call, FirstAttempt
from mataserver_fleet.gateway.http1 import SHORT
from mataserver_fleet.gateway.relaying import LEFT, SMALL

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp import web

    from mataserver import Unfinished
    from mataserver_fleet.gateway.bodies import SentBody, StreamingBody
    from mataserver_fleet.gateway.connections import ConnectionPool, UpstreamConnection
    from mataserver_fleet.gateway.exchange import UpstreamRequest
    from mataserver_fleet.gateway.http1 import Fields, Head
    from mataserver_fleet.gateway.known_heads import KnownHead
    from mataserver_fleet.gateway.sequences import Destination
    from mataserver_fleet.gateway.servers import Server, Servers

    Deliver = Callable[[PlainAnswer | Unfinished], None]


class CallHandler(Protocol):
    """What answers a call in a task, and counts it. Raises ``MataError`` children."""

    def __call__(
        self, call: Call, *, first: FirstAttempt | None = None
    ) -> Awaitable[web.StreamResponse]:
        """Answer one, of which ``first`` was tried."""


class FastPathContext(Protocol):
    """What an attempt needs of the gateway."""

    servers: Servers
    links: ConnectionPool
    counted: CallHandler

    def note(self, known: KnownHead, status: int, taken: int, given: int) -> None:
        """Count an answer, and the bytes of both bodies."""


class FastRequest:
    """One that was sent."""

    __slots__ = (
        "_deadline", "_known", "_link", "_loop", "_message", "_of", "_pin", "_server", "_take",
        "_timer", "_until",
    )  # fmt: skip

    def __init__(
        self,
        of: FastPathContext,
        known: KnownHead,
        pin: Destination,
        link: UpstreamConnection,
        message: UpstreamRequest,
        take: Deliver,
    ) -> None:
        self._of = of
        self._known = known
        self._pin = pin
        self._link: UpstreamConnection | None = link
        self._message = message
        self._take = take
        self._server: Server = of.servers.of(pin.target)
        self._loop = asyncio.get_running_loop()

    def send(self, seconds: float, *, movable: bool) -> None:
        """Send it; ``movable`` as for an ``Exchange``."""
        link, body = self._link, self._message.body
        assert link is not None  # noqa: S101 - for the type checker: it is new
        assert isinstance(body, BufferedBody)  # noqa: S101 - for the type checker
        head = self._message.head(self._pin.target)
        self._deadline = self._until = self._loop.time() + seconds
        self._timer = self._loop.call_at(self._deadline, self._hand_over)
        self._server.begin(self if movable else None)
        transport = link.begin()
        transport.writelines((head, *body.pieces))
        link.sent()
        link.listen(self._look)

    # what a server has of the requests that are given up once it is dead

    def expired(self) -> bool:
        """Whether its time is over."""
        return self._link is None

    def reschedule(self, when: float) -> None:
        """Have its time be over."""
        self._timer.cancel()
        self._until = when
        self._timer = self._loop.call_at(when, self._hand_over)

    # the answer

    def _look(self) -> None:
        """Answer, where what has come is an answer in one piece."""
        link = self._link
        assert link is not None  # noqa: S101 - for the type checker: nobody listens any more
        head = link.arrived
        if head is None and link.usable:
            return
        if head is None or head.status != 200 or not link.ended or not _is_short(head):
            self._hand_over()
            return
        body = link.whole()
        self._let_go(link)
        self._of.note(self._known, 200, self._size, len(body))
        self._take(PlainAnswer(_fields(head.fields), body))

    def _hand_over(self) -> None:
        """Leave the rest to a task."""
        link = self._link
        assert link is not None  # noqa: S101 - for the type checker: see ``_look``
        self._stop(link)
        self._take(self)

    async def finish(self, request: web.Request) -> web.StreamResponse:
        """Answer in a task."""
        link, self._link = self._link, None
        assert link is not None  # noqa: S101 - for the type checker: it was not withdrawn
        self._server.end()  # the task counts it
        known, message = self._known, self._message
        call = Call(request, known.asked, known.consumer, message.fields)
        call.body = self._body
        first = FirstAttempt(self._pin, SentMessage(link, self._until), self._deadline)
        try:
            return await self._of.counted(call, first=first)
        except MataError as error:
            return problem(error)

    def withdraw(self) -> None:
        """Give the request up: its client has left."""
        link = self._link
        if link is not None:
            self._let_go(link)
            self._of.note(self._known, LEFT, self._size, 0)

    @property
    def _body(self) -> BufferedBody | StreamingBody | SentBody | None:
        """What a task has of the body."""
        return self._message.body

    @property
    def _size(self) -> int:
        """Bytes that have come of the body."""
        body = self._body
        return 0 if body is None else body.size

    def _stop(self, link: UpstreamConnection) -> None:
        """Wait for nothing any more."""
        link.listen(None)
        self._timer.cancel()
        self._server.release(self)

    def _let_go(self, link: UpstreamConnection) -> None:
        """Have nothing to do with the server any more."""
        self._stop(link)
        self._link = None
        self._server.end()
        self._of.links.give_back(self._pin.target, link)


def _is_short(head: Head) -> bool:
    """Whether an answer tells its length, and is to leave in one piece."""
    return head.length is not None and head.length <= SMALL


def _fields(given: Fields) -> tuple[tuple[str, str], ...]:
    """Return the header of an answer: servers say the same of most."""
    short = sum(map(len, chain.from_iterable(given))) <= SHORT
    return _known_fields(given) if short else _made_fields(given)


def _made_fields(given: Fields) -> tuple[tuple[str, str], ...]:
    fields = headers.back(given)
    if not any(name.lower() == "content-type" for name, _ in fields):
        fields.append(("Content-Type", headers.BINARY))
    return tuple(fields)


_known_fields = functools.lru_cache(256)(_made_fields)
