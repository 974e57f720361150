"""Connections whose requests' heads may be known: such a request passes by aiohttp's parser.

What such a cache may get wrong is where a message ends. So a head is looked for only where aiohttp
waits for a request and every byte of the messages before is accounted for, from the connection's
first. A connection of which that is not sure is aiohttp's for good, and so is every request that is
unusual in any way: aiohttp gets it as it came.

This knows attributes of aiohttp that are not public, and is used with the releases only that it was
tried with.
"""

from __future__ import annotations

import contextvars
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

import aiohttp
from aiohttp.http_writer import StreamWriter
from aiohttp.streams import EMPTY_PAYLOAD

from mataserver.errors import Unavailable
from mataserver.http import head_parsing
from mataserver.http.head_cache import KnownRoute, is_of
from mataserver.http.head_hits import Hit
from mataserver.http.head_parsing import EARLY, rest
from mataserver.http.protocol import Conversation, unsign
from mataserver.http.routing import ROUTE

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine

    from aiohttp import web

    from mataserver.http.head_cache import Claim, HeadCache, Known, KnownClaim, Repeat
    from mataserver.http.head_parsing import Beginning
    from mataserver.http.middleware import Edge
    from mataserver.http.unread_output import Portion

P = ParamSpec("P")
T = TypeVar("T")

TRIED = frozenset({"3.14.5"})
"""The releases of aiohttp that this was tried with: what is not public changes in any of them."""


def known(version: str = aiohttp.__version__) -> bool:
    """Whether this was tried with a release of aiohttp."""
    return version in TRIED


def is_alone(edge: Edge, application: web.Application) -> bool:
    """Whether nothing but ``edge`` and ``unsign`` touches the requests of an application."""
    around = list(application.middlewares), list(application.on_response_prepare)
    return around == ([edge.middleware], [unsign])


def learn(request: web.Request, repeat: Repeat, boundary: str = "") -> None:
    """Have requests with the head of one that was answered be answered by ``repeat``.

    ``boundary`` is that of a form.
    """
    conversation = request.protocol
    if isinstance(conversation, CachingConversation):
        conversation.learn(request, repeat, boundary)


class CachingConversation(Conversation):
    """A connection whose requests' heads may be known.

    ``_left`` are the bytes that the message under way is still to have: 0 between two messages,
    less where nobody knows. ``_is_new``: aiohttp was given nothing yet.
    """

    __slots__ = ("_context", "_head", "_heads", "_hit", "_is_new", "_left", "_made")

    def __init__(
        self, server: web.Server, budget: Callable[[], Portion], *, cache: HeadCache, **options: Any
    ) -> None:
        super().__init__(server, budget, **options)
        self._heads = cache
        self._context = contextvars.copy_context()
        self._head: Beginning | None = None
        self._hit: Hit | None = None
        self._is_new = True
        self._left = 0
        self._made: tuple[Known, web.Request] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; what is done for requests goes on in the context of now, as aiohttp's tasks."""
        self._context = contextvars.copy_context()
        super().connection_made(transport)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begin what is done for one request: whoever writes into a pipe has another context."""
        return self._loop.create_task(work, context=self._context.copy())

    def within(self, begin: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """Begin what is done for one request without a task, in the context of the connection."""
        return self._context.run(begin, *args, **options)

    def data_received(self, data: bytes) -> None:
        """Take what the client sends."""
        if self._hit is not None:
            self._hit.receive(data)
            return
        if self._left > 0:
            self._pass(rest(self._left, data))
        elif self._left == 0 and data and self._begin(data):
            return
        self._is_new = False
        super().data_received(data)

    def _begin(self, data: bytes) -> bool:
        """Look at the beginning of a message; whether its head is known, and all is done."""
        self._head, is_idle = None, self._is_idle
        head = head_parsing.read(data)
        if head is None:
            self._pass(-1)
            return False
        if is_idle and head.key and len(data) - head.end <= head.size:
            known = self._heads.find(head.key, head.size)
            if known is not None and self._take(head, known, data):
                return True
            self._head = head
        self._pass(-1 if head.unsure else rest(head.end + head.size, data))
        return False

    def _pass(self, left: int) -> None:
        """Note what is left of the message that aiohttp gets.

        Where nobody knows, what is answered next may be another request than the one whose head is
        here: none is learnt any more.
        """
        self._left = left
        if left < 0:
            self._head = None

    def _take(self, head: Beginning, known: KnownRoute | KnownClaim, data: bytes) -> bool:
        """Answer a request whose head is known.

        False where there is no room for its body, or whoever sends it may not ask.
        """
        share = self._budget()
        try:
            share.check(head.size)  # amid a body it is too late: whoever asks is counted by then
        except Unavailable:
            return False
        if not self._heads.admits(head.key, known):
            return False
        share.hold(len(data) - head.end)
        self._heads.hits += 1
        self.is_strangers = False
        kind = Hit if isinstance(known, KnownRoute) else known.claim.hit
        self._hit = kind(self, self._heads.edge, known, share)
        self._hit.begin(data, head)
        return True

    @property
    def _is_idle(self) -> bool:
        """Whether aiohttp waits for a request, or has not begun to, and has nothing else to do."""
        waiter = self._waiter
        waits = self._is_new if waiter is None else not waiter.done()
        busy = self._messages or self._upgraded or self._close or self._force_close
        held = self._reading_paused or self._buffer_paused or self._payload_parser is not None
        return waits and not busy and not held

    @property
    def is_ending(self) -> bool:
        """Whether it takes no more requests."""
        return bool(self._close or self._force_close)

    def learn(self, request: web.Request, repeat: Repeat, boundary: str) -> None:
        """Know the head of the request under way from now on, if its boundary is known apart."""
        head = self._head_of(request)
        if head is not None and head.boundary == boundary.encode("latin-1", "replace"):
            self._heads.learn(head.key, request, repeat)

    def learn_claimed(self, request: web.Request, claim: Claim) -> None:
        """Know the head of the claimed request under way from now on."""
        head = self._head_of(request)
        if head is not None and not head.boundary:
            self._heads.learn_claimed(head.key, request, claim)

    def _head_of(self, request: web.Request) -> Beginning | None:
        """Return the head of the request under way, once; None where it may be another's."""
        head, self._head = self._head, None
        if head is None or request is not self._current_request or not is_of(head, request):
            return None
        return head

    def hand_over(self, data: bytes, left: int) -> None:
        """Leave a request to aiohttp of which ``data`` came, and ``left`` bytes are to come."""
        self._hit, self._is_new, self._left = None, False, left
        super().data_received(data)

    def go_on(self, early: bytes) -> None:
        """Take the next request, of which something may have come already."""
        self._hit = None
        if self.transport is None or self.is_ending:
            return
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if len(early) > EARLY:
            self.transport.resume_reading()
        if early:
            self.data_received(early)

    def give_up(self) -> None:
        """Close the connection: the request under way gets no answer."""
        self._hit = None
        self.force_close()

    def hang_up(self, *, at_once: bool) -> None:
        """Take no more requests, and close the connection unless that comes later."""
        self.close()
        if at_once and self.transport is not None:
            self.transport.close()

    def request(self, known: Known) -> web.Request | None:
        """Return a request whose head is known as aiohttp makes it; None once the client left."""
        if self._request_factory is None or self._task_handler is None:
            return None
        writer = StreamWriter(self, self._loop)
        made = self._request_factory(known.message, EMPTY_PAYLOAD, self, writer, self._task_handler)
        request = cast("web.Request", made)
        request._match_info = known.found  # noqa: SLF001
        if isinstance(known, KnownRoute):
            request[ROUTE] = known.route
        return request

    def head(self, known: Known) -> web.Request | None:
        """Return a request that has a known head, for what is asked of that alone.

        The same for all that follow each other; None once the client left.
        """
        if self._made is None or self._made[0] is not known:
            request = self.request(known)
            if request is None:
                return None
            self._made = known, request
        return self._made[1]

    def connection_lost(self, exc: BaseException | None) -> None:
        """Stop what is done for the client."""
        hit, self._hit, self._made = self._hit, None, None
        if hit is not None:
            hit.abandon()
        super().connection_lost(exc)

    def _process_keepalive(self) -> None:
        """Close an idle connection: one whose request is known only seems to be idle."""
        if self._hit is not None:
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        super()._process_keepalive()
