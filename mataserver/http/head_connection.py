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
from mataserver.http import head_cache
from mataserver.http.head_cache import MAX_EARLY, matches_request
from mataserver.http.protocol import HttpConnection, adjust_headers
from mataserver.http.routing import ROUTE

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine

    from aiohttp import web

    from mataserver.http.budget import BudgetShare
    from mataserver.http.head_cache import HeadCache, KnownHead, RepeatedRequest, RequestStart
    from mataserver.http.middleware import RequestMiddleware

P = ParamSpec("P")
T = TypeVar("T")

TESTED_RELEASES = frozenset({"3.14.5"})
"""The tested releases of aiohttp: non-public attributes may change in any release."""


def is_supported(version: str = aiohttp.__version__) -> bool:
    """Whether this was tested with a release of aiohttp."""
    return version in TESTED_RELEASES


def is_sole_middleware(middleware: RequestMiddleware, application: web.Application) -> bool:
    """Whether an application has no other middleware or signal than the server's own."""
    around = list(application.middlewares), list(application.on_response_prepare)
    return around == ([middleware.handle], [adjust_headers])


class CachingConnection(HttpConnection):
    """A connection with known heads.

    ``_left`` are the outstanding bytes of the current message: 0 between two messages, negative if
    unknown. ``_is_new``: aiohttp has received nothing yet.
    """

    __slots__ = ("_context", "_head", "_is_new", "_known_request", "_left", "_shared", "heads")

    def __init__(
        self,
        server: web.Server,
        budget: Callable[..., BudgetShare],
        *,
        cache: HeadCache,
        **options: Any,
    ) -> None:
        super().__init__(server, budget, **options)
        self.heads = cache
        self._context = contextvars.copy_context()
        self._head: RequestStart | None = None
        self._known_request: RepeatedRequest | None = None
        self._is_new = True
        self._left = 0
        self._shared: tuple[KnownHead, web.Request] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start; work for requests runs in a copy of the current context, like aiohttp's tasks."""
        self._context = contextvars.copy_context()
        super().connection_made(transport)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task for one request, in the connection's context, whoever delivers the data."""
        return self._loop.create_task(work, context=self._context.copy())

    def run_in_context(self, begin: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """Call a function for one request, in the connection's context."""
        return self._context.run(begin, *args, **options)

    def data_received(self, data: bytes) -> None:
        """Process data from the client."""
        if self._known_request is not None:
            self._known_request.receive(data)
            return
        if self._left > 0:
            self._set_outstanding(self._left - len(data))
        elif self._left == 0 and data and self._inspect(data):
            return
        self._is_new = False
        super().data_received(data)

    def _inspect(self, data: bytes) -> bool:
        """Inspect the start of a message; return whether its head is known and it was processed."""
        self._head, is_idle = None, self._is_idle
        head = head_cache.parse_start(data)
        if head is None:
            self._set_outstanding(-1)
            return False
        if is_idle and head.key and len(data) - head.end <= head.size:
            known = self.heads.find(head.key, head.size)
            if known is not None and self._answer_known(head, known, data):
                return True
            self._head = head
        self._set_outstanding(-1 if head.is_uncertain else head.end + head.size - len(data))
        return False

    def _set_outstanding(self, left: int) -> None:
        """Record the outstanding bytes of the message that aiohttp processes.

        If they are unknown, the next answer may belong to another request than the inspected head,
        so heads are no longer cached.
        """
        self._left = left
        if left < 0:
            self._head = None

    def _answer_known(self, head: RequestStart, known: KnownHead, data: bytes) -> bool:
        """Answer a request with a known head.

        Returns False if there is no room for its body, or the sender is not authorized.
        """
        share = self._budget(known.owner)
        try:
            share.check(head.size)  # checked first, as ``caller`` counts the request
        except Unavailable:
            return False
        caller = None
        if known.route is not None:
            caller = self.heads.caller(head.key, known.key, known.route)
            if caller is None:
                return False
        share.hold(len(data) - head.end)
        self.heads.hits += 1
        self.is_anonymous = False
        self._known_request = known.make_request(self, known, share)
        self._known_request.caller = caller
        self._known_request.begin(data, head)
        return True

    @property
    def _is_idle(self) -> bool:
        """Whether aiohttp waits for a request, or has not started yet, and is otherwise idle."""
        waiter = self._waiter
        waits = self._is_new if waiter is None else not waiter.done()
        busy = self._messages or self._upgraded or self._close or self._force_close
        busy = busy or self._input.is_waiting
        held = self._reading_paused or self._buffer_paused or self._payload_parser is not None
        return waits and not busy and not held

    @property
    def is_ending(self) -> bool:
        """Whether the connection accepts no more requests."""
        return bool(self._close or self._force_close)

    def take_head(self, request: web.Request, boundary: str = "") -> bytes:
        """Return the cache key of the current request's head, once.

        Empty if the head may be another request's, or a form's ``boundary`` was not recognized.
        """
        head, self._head = self._head, None
        if head is None or request is not self._current_request:
            return b""
        recognized = head.boundary == boundary.encode("latin-1", "replace")
        return head.key if recognized and matches_request(head, request) else b""

    def hand_over(self, data: bytes, left: int) -> None:
        """Hand a request over to aiohttp: ``data`` has arrived, ``left`` bytes are outstanding."""
        self._known_request, self._is_new, self._left = None, False, left
        super().data_received(data)

    def next_request(self, next_data: bytes) -> None:
        """Process the next request, of which data may have arrived already."""
        self._known_request = None
        if self.transport is None or self.is_ending:
            return
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if len(next_data) > MAX_EARLY:
            self.transport.resume_reading()
        if next_data:
            self.data_received(next_data)

    def abort(self) -> None:
        """Close the connection without answering the current request."""
        self._known_request = None
        self.force_close()

    def end(self, *, at_once: bool) -> None:
        """Accept no more requests; close the connection now or later."""
        self.close()
        if at_once and self.transport is not None:
            self.transport.close()

    def request(self, known: KnownHead) -> web.Request | None:
        """Return a request with a known head, as aiohttp creates it; None after a disconnect."""
        if self._request_factory is None or self._task_handler is None:
            return None
        writer = StreamWriter(self, self._loop)
        made = self._request_factory(known.message, EMPTY_PAYLOAD, self, writer, self._task_handler)
        request = cast("web.Request", made)
        request._match_info = known.found  # noqa: SLF001
        if known.route is not None:
            request[ROUTE] = known.route
        return request

    def shared_request(self, known: KnownHead) -> web.Request | None:
        """Return a request with a known head, for use of the head only.

        Consecutive calls share it; None after a disconnect.
        """
        if self._shared is None or self._shared[0] is not known:
            request = self.request(known)
            if request is None:
                return None
            self._shared = known, request
        return self._shared[1]

    def connection_lost(self, exc: BaseException | None) -> None:
        """Stop the work for the client."""
        known_request, self._known_request, self._shared = self._known_request, None, None
        if known_request is not None:
            known_request.abandon()
        super().connection_lost(exc)

    def _process_keepalive(self) -> None:
        """Close an idle connection, unless a known head is in progress."""
        if self._known_request is not None:
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        super()._process_keepalive()
