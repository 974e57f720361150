"""Connections with known heads: requests that have one bypass aiohttp's parser.

The risk of such a cache is misjudging where a message ends. So heads are looked up only while
aiohttp waits for a request and every previous byte of the connection is accounted for. A connection
for which this is uncertain is left to aiohttp for good, and so is every unusual request, unchanged.

It uses non-public attributes of aiohttp, and only with releases that were tested.
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
from mataserver.http.protocol import HttpConnection, strip_server_header
from mataserver.http.routing import ROUTE

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine

    from aiohttp import web

    from mataserver.http.head_cache import Claim, HeadCache, Known, KnownClaim, Repeat
    from mataserver.http.head_parsing import Beginning
    from mataserver.http.middleware import RequestMiddleware
    from mataserver.http.unread_output import OverdrawableShare

P = ParamSpec("P")
T = TypeVar("T")

TRIED = frozenset({"3.14.5"})
"""The tested releases of aiohttp: non-public attributes may change in any release."""


def known(version: str = aiohttp.__version__) -> bool:
    """Whether this was tested with a release of aiohttp."""
    return version in TRIED


def is_alone(middleware: RequestMiddleware, application: web.Application) -> bool:
    """Whether an application has no other middleware or signal than the server's own."""
    around = list(application.middlewares), list(application.on_response_prepare)
    return around == ([middleware.handle], [strip_server_header])


def learn(request: web.Request, repeat: Repeat, boundary: str = "") -> None:
    """Answer further requests with the head of this one by ``repeat``.

    ``boundary`` is that of a form.
    """
    conversation = request.protocol
    if isinstance(conversation, CachingConnection):
        conversation.learn(request, repeat, boundary)


class CachingConnection(HttpConnection):
    """A connection with known heads.

    ``_left`` are the outstanding bytes of the current message: 0 between two messages, negative if
    unknown. ``_is_new``: aiohttp has received nothing yet.
    """

    __slots__ = ("_context", "_head", "_heads", "_hit", "_is_new", "_left", "_made")

    def __init__(
        self,
        server: web.Server,
        budget: Callable[..., OverdrawableShare],
        *,
        cache: HeadCache,
        **options: Any,
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
        """Start; work for requests runs in a copy of the current context, like aiohttp's tasks."""
        self._context = contextvars.copy_context()
        super().connection_made(transport)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task for one request, in the connection's context, whoever delivers the data."""
        return self._loop.create_task(work, context=self._context.copy())

    def within(self, begin: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """Call a function for one request, in the connection's context."""
        return self._context.run(begin, *args, **options)

    def data_received(self, data: bytes) -> None:
        """Process data from the client."""
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
        """Inspect the start of a message; return whether its head is known and it was processed."""
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
        """Record the outstanding bytes of the message that aiohttp processes.

        If they are unknown, the next answer may belong to another request than the inspected head,
        so heads are no longer cached.
        """
        self._left = left
        if left < 0:
            self._head = None

    def _take(self, head: Beginning, known: KnownRoute | KnownClaim, data: bytes) -> bool:
        """Answer a request with a known head.

        Returns False if there is no room for its body, or the sender is not authorized.
        """
        share = self._budget(known.owner if isinstance(known, KnownRoute) else None)
        try:
            share.check(head.size)  # checked first, as ``caller`` counts the request
        except Unavailable:
            return False
        caller = None
        if isinstance(known, KnownRoute):
            caller = self._heads.caller(head.key, known)
            if caller is None:
                return False
        share.hold(len(data) - head.end)
        self._heads.hits += 1
        self.is_anonymous = False
        kind = Hit if isinstance(known, KnownRoute) else known.claim.hit
        self._hit = kind(self, self._heads.middleware, known, share)
        self._hit.caller = caller
        self._hit.begin(data, head)
        return True

    @property
    def _is_idle(self) -> bool:
        """Whether aiohttp waits for a request, or has not started yet, and is otherwise idle."""
        waiter = self._waiter
        waits = self._is_new if waiter is None else not waiter.done()
        busy = self._messages or self._upgraded or self._close or self._force_close
        held = self._reading_paused or self._buffer_paused or self._payload_parser is not None
        return waits and not busy and not held

    @property
    def is_ending(self) -> bool:
        """Whether the connection accepts no more requests."""
        return bool(self._close or self._force_close)

    def learn(self, request: web.Request, repeat: Repeat, boundary: str) -> None:
        """Cache the head of the current request, if its boundary was recognized."""
        head = self._head_of(request)
        if head is not None and head.boundary == boundary.encode("latin-1", "replace"):
            self._heads.learn(head.key, request, repeat)

    def learn_claimed(self, request: web.Request, claim: Claim) -> None:
        """Cache the head of the current claimed request."""
        head = self._head_of(request)
        if head is not None and not head.boundary:
            self._heads.learn_claimed(head.key, request, claim)

    def _head_of(self, request: web.Request) -> Beginning | None:
        """Return the head of the current request, once; None if it may be another request's."""
        head, self._head = self._head, None
        if head is None or request is not self._current_request or not is_of(head, request):
            return None
        return head

    def hand_over(self, data: bytes, left: int) -> None:
        """Hand a request over to aiohttp: ``data`` has arrived, ``left`` bytes are outstanding."""
        self._hit, self._is_new, self._left = None, False, left
        super().data_received(data)

    def go_on(self, early: bytes) -> None:
        """Process the next request, of which data may have arrived already."""
        self._hit = None
        if self.transport is None or self.is_ending:
            return
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if len(early) > EARLY:
            self.transport.resume_reading()
        if early:
            self.data_received(early)

    def give_up(self) -> None:
        """Close the connection without answering the current request."""
        self._hit = None
        self.force_close()

    def hang_up(self, *, at_once: bool) -> None:
        """Accept no more requests; close the connection now or later."""
        self.close()
        if at_once and self.transport is not None:
            self.transport.close()

    def request(self, known: Known) -> web.Request | None:
        """Return a request with a known head, as aiohttp creates it; None after a disconnect."""
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
        """Return a request with a known head, for use of the head only.

        Consecutive calls share it; None after a disconnect.
        """
        if self._made is None or self._made[0] is not known:
            request = self.request(known)
            if request is None:
                return None
            self._made = known, request
        return self._made[1]

    def connection_lost(self, exc: BaseException | None) -> None:
        """Stop the work for the client."""
        hit, self._hit, self._made = self._hit, None, None
        if hit is not None:
            hit.abandon()
        super().connection_lost(exc)

    def _process_keepalive(self) -> None:
        """Close an idle connection, unless a known head is in progress."""
        if self._hit is not None:
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        super()._process_keepalive()
