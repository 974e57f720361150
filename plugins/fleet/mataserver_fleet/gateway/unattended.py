"""Inferences that are passed on and answered without a task: plain ones, which most are.

A task, its timers and a response of aiohttp's cost as much as all the rest. So what is known of a
head, a server that is ready and a connection that is there are enough to send the request on, and
an answer that comes in one piece goes back from where it arrived. Whatever is otherwise goes on in
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
from mataserver_fleet.gateway.bodies import Whole
from mataserver_fleet.gateway.exchange import Begun, Message
from mataserver_fleet.gateway.forwarding import Call, First, with_query
from mataserver_fleet.gateway.http1 import SHORT
from mataserver_fleet.gateway.relaying import LEFT, SMALL

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from aiohttp import web

    from mataserver import Unfinished
    from mataserver_fleet.gateway.choosing import Choosing
    from mataserver_fleet.gateway.http1 import Fields, Head
    from mataserver_fleet.gateway.limits import Limits
    from mataserver_fleet.gateway.links import Link, Links
    from mataserver_fleet.gateway.repeating import Answered
    from mataserver_fleet.gateway.sequences import Pin
    from mataserver_fleet.gateway.servers import Server, Servers
    from mataserver_fleet.gateway.snapshot import Consumer, Place

    Piece = bytes | memoryview
    Take = Callable[[PlainAnswer | Unfinished], None]
    Address = Callable[[web.Request], str]


class Counted(Protocol):
    """What answers a call in a task, and counts it. Raises ``MataError`` children."""

    def __call__(self, call: Call, *, first: First | None = None) -> Awaitable[web.StreamResponse]:
        """Answer one, of which ``first`` was tried."""


class Note(Protocol):
    """What counts an answer."""

    def __call__(self, who: Consumer, place: Place, status: int, taken: int, given: int, /) -> None:
        """Count one, and the bytes of both bodies."""


class Unattended:
    """Begins them; ``counted`` answers those that need a task."""

    def __init__(
        self,
        servers: Servers,
        choosing: Choosing,
        links: Links,
        limits: Limits,
        counted: Counted,
        note: Note,
    ) -> None:
        self.servers = servers
        self.links = links
        self.counted = counted
        self._note = note
        self._choosing = choosing
        self._limits = limits

    def note(self, known: Answered, status: int, taken: int, given: int) -> None:
        """Count an answer, and the bytes of both bodies."""
        self._note(known.consumer, known.asked.place, status, taken, given)

    async def answer(self, known: Answered, call: Call) -> web.StreamResponse:
        """Answer a call in a task. Raises ``MataError`` children."""
        self._limits.admit(known.consumer)
        return await self.counted(call)

    def begin(
        self, known: Answered, head: web.Request, address: str, body: Sequence[Piece], take: Take
    ) -> Callable[[], None] | None:
        """Send a request on, unless it needs a task; see ``Responder.begin``."""
        place, version, verb = known.asked
        application, route = place
        size = sum(map(len, body))
        if known.part is None or route.mirror or not known.part.is_plainly_without(body, size):
            return None
        pin = self._choosing.choose(place, version)
        if pin is None or pin.target.kind == "own":
            return None
        link = self.links.idle(pin.target)
        if link is None:
            return None
        try:
            self._limits.admit(known.consumer)
        except MataError:
            self.links.give_back(pin.target, link, since=link.since)
            return None  # and the task is refused
        fields = known.passed + headers.origin(address) + known.kind
        path = with_query(route.path(pin.version, verb), head)
        message = Message("POST", path, fields, Whole(body, size), known.consumer.id)
        attempt = _Attempt(self, known, pin, link, message, take)
        attempt.send(application.timeout, movable=application.resend)
        return attempt.withdraw


class Repeated:
    """Answers one inference whose head was answered before; see ``Responder``."""

    __slots__ = ("_address", "_known", "_of")

    def __init__(self, of: Unattended, known: Answered, address: Address) -> None:
        self._of = of
        self._known = known
        self._address = address

    async def answer(self, request: web.Request, body: bytes) -> web.StreamResponse:
        """Answer it in a task."""
        known = self._known
        fields = known.passed + headers.origin(self._address(request))
        call = Call(request, known.asked, known.consumer, fields)
        call.body = Whole((body,), len(body))
        try:
            return await self._of.answer(known, call)
        except MataError as error:
            return problem(error)

    def begin(
        self, head: web.Request, body: Sequence[Piece], take: Take
    ) -> Callable[[], None] | None:
        """Begin to answer it without one."""
        return self._of.begin(self._known, head, self._address(head), body, take)


class _Attempt:
    """One that was sent."""

    __slots__ = (
        "_deadline", "_known", "_link", "_loop", "_message", "_of", "_pin", "_server", "_take",
        "_timer", "_until",
    )  # fmt: skip

    def __init__(
        self,
        of: Unattended,
        known: Answered,
        pin: Pin,
        link: Link,
        message: Message,
        take: Take,
    ) -> None:
        self._of = of
        self._known = known
        self._pin = pin
        self._link: Link | None = link
        self._message = message
        self._take = take
        self._server: Server = of.servers.of(pin.target)
        self._loop = asyncio.get_running_loop()

    def send(self, seconds: float, *, movable: bool) -> None:
        """Send it; ``movable`` as for an ``Exchange``."""
        link, body = self._link, self._message.body
        assert link is not None  # noqa: S101 - for the type checker: it is new
        assert isinstance(body, Whole)  # noqa: S101 - for the type checker
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
        call.body = message.body
        first = First(self._pin, Begun(link, self._until), self._deadline)
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
    def _size(self) -> int:
        body = self._message.body
        return 0 if body is None else body.size

    def _stop(self, link: Link) -> None:
        """Wait for nothing any more."""
        link.listen(None)
        self._timer.cancel()
        self._server.release(self)

    def _let_go(self, link: Link) -> None:
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
