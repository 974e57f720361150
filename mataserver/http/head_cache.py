"""Cache of request heads that were answered, with how to answer such requests again.

A camera sends the same head with every picture, except for the digits of its length. A head is
cached byte for byte, and only after aiohttp's strict parser and a handler have accepted it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from aiohttp import HttpVersion11, hdrs

from mataserver.http.auth import PRINCIPAL
from mataserver.http.head_parsing import MARK
from mataserver.http.routing import CLAIMED, ROUTE

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine

    from aiohttp import web
    from aiohttp.http import RawRequestMessage
    from aiohttp.web_urldispatcher import UrlMappingMatchInfo

    from mataserver.contract.claims import RepeatedClaim
    from mataserver.contract.envelope import Format
    from mataserver.contract.handles import Encoded
    from mataserver.contract.routes import Route
    from mataserver.http.head_parsing import RequestStart
    from mataserver.http.middleware import RequestMiddleware
    from mataserver.principals import Principal

MAX_HEADS = 256
"""Maximum number of heads; the owner with the most loses its oldest."""
MAX_BODY = 9_000_000
"""Maximum bytes of a body after a known head."""
_VARYING_HEADERS = (
    *(hdrs.EXPECT, hdrs.ORIGIN, hdrs.UPGRADE, hdrs.TRANSFER_ENCODING, hdrs.CONTENT_ENCODING),
    *(hdrs.COOKIE, "X-Request-Id"),
)
"""Headers that vary between requests, or make more than the head decide about the answer."""


class RepeatHandler(Protocol):
    """How a handler answers repeated requests."""

    @property
    def form(self) -> Format:
        """The format of the answers."""
        ...

    def is_current(self) -> bool:
        """Whether it would still answer them the same way."""
        ...

    async def answer(self, body: bytes, boundary: bytes) -> Encoded:
        """Answer a request with a non-empty body. Raises what the handler raises.

        ``boundary`` separates the parts of a form.
        """
        ...

    def begin(
        self, body: bytes, boundary: bytes, take: Callable[[Encoded | Exception], None]
    ) -> Callable[[], None] | None:
        """Start to answer without a task; return None if only ``answer`` can.

        ``take`` is called later, once, with what ``answer`` returns or raises; for one of
        ``RETRIABLE`` the caller should retry with ``answer``. Returns a function that cancels the
        request. Raises errors of the request.
        """
        ...


@dataclass(frozen=True, slots=True)
class KnownHead:
    """The cached properties of a head sent by ``owner``.

    ``limit`` and ``seconds`` are the limits of its body, ``label`` is its label in metrics.
    """

    owner: str

    message: RawRequestMessage
    found: UrlMappingMatchInfo
    label: str
    limit: int
    seconds: float


@dataclass(frozen=True, slots=True)
class KnownRouteHead(KnownHead):
    """The head of a route's requests, admitted by ``key``."""

    route: Route
    key: str
    repeat: RepeatHandler


class RequestConnection(Protocol):
    """The connection of such a request."""

    transport: asyncio.Transport | None

    @property
    def writing_paused(self) -> bool:
        """Whether the client reads more slowly than the server writes."""
        ...

    @property
    def is_ending(self) -> bool:
        """Whether the connection accepts no more requests."""
        ...

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task for one request, in the connection's context."""
        ...

    def run_in_context(self, begin: Callable[..., Any], *args: Any) -> Any:
        """Call a function for one request in the connection's context; return its result."""
        ...

    def request(self, known: KnownHead) -> web.Request | None:
        """Return a request with a known head, as aiohttp creates it; None after a disconnect."""
        ...

    def shared_request(self, known: KnownHead) -> web.Request | None:
        """Return a shared request with a known head, for use of the head only, or None."""
        ...

    def next_request(self, next_data: bytes) -> None:
        """Process the next request, of which data may have arrived already."""
        ...

    def hand_over(self, data: bytes, left: int) -> None:
        """Hand a request over to aiohttp: ``data`` has arrived, ``left`` bytes are outstanding."""
        ...

    def abort(self) -> None:
        """Close the connection without answering the current request."""
        ...

    def end(self, *, at_once: bool) -> None:
        """Accept no more requests; close the connection now or later."""
        ...

    def handle_error(self, request: web.BaseRequest, *, exc: BaseException) -> web.StreamResponse:
        """Return the answer to a failure outside a handler."""
        ...


class ClaimHandler(NamedTuple):
    """How a service answers repeated claimed requests, and the class that processes each."""

    repeat: RepeatedClaim
    hit: type[Any]


@dataclass(frozen=True, slots=True)
class KnownClaimHead(KnownHead):
    """The head of requests that a service claimed and authenticates itself."""

    claim: ClaimHandler


class HeadCache:
    """The known heads of a server; ``hits`` counts the requests answered by them."""

    def __init__(self, middleware: RequestMiddleware) -> None:
        self.middleware = middleware
        self.hits = 0
        self._known: dict[bytes, KnownRouteHead | KnownClaimHead] = {}
        self._of_owner: dict[str, dict[bytes, None]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def find(self, head: bytes, size: int) -> KnownRouteHead | KnownClaimHead | None:
        """Return what is known of a head, if it is still valid and the body is not too large.

        Authorization is checked by ``caller``.
        """
        known = self._known.get(head)
        if known is None or size > known.limit or self.middleware.lifecycle.is_draining:
            return None
        repeat = known.claim.repeat if isinstance(known, KnownClaimHead) else known.repeat
        return known if repeat.is_current() else None

    def caller(self, head: bytes, known: KnownRouteHead) -> Principal | None:
        """Return the sender of a known head; if it is not authorized any more, forget the head.

        Must be the last check: a service counts it as a request, and a request that then takes the
        general path is counted twice. Claimed requests are authorized by their service.
        """
        principal = self.middleware.gate.owner(known.key)
        if principal is not None and principal.may(known.route.needs):
            return principal
        self._evict(head)
        return None

    def learn(self, head: bytes, request: web.Request, repeat: RepeatHandler) -> None:
        """Cache a head, unless more than the head decides about such requests."""
        table, route = self.middleware.table, request.get(ROUTE)
        key = self.middleware.gate.sole_key(request)
        if (
            route is None
            or route.held
            or key is None
            or not table.is_unconditional(request)
            or not _is_plain(request)
        ):
            return
        limits = table.limits(request)
        if limits.idle:
            return
        principal = request.get(PRINCIPAL)
        if principal is not None and principal.background:  # only the general path records it
            return
        owner = "" if principal is None else principal.id
        common = self._common_fields(request, owner, limits.size, limits.seconds)
        self._store(head, KnownRouteHead(*common, route, key, repeat))

    def learn_claimed(self, head: bytes, request: web.Request, claim: ClaimHandler) -> None:
        """Cache the head of a claimed request, if only one service claims requests."""
        if CLAIMED in request and len(self.middleware.table.claims) == 1 and _is_plain(request):
            repeat = claim.repeat
            common = self._common_fields(request, repeat.owner, repeat.limit, repeat.seconds)
            self._store(head, KnownClaimHead(*common, claim))

    def _common_fields(
        self, request: web.Request, owner: str, limit: int, seconds: float
    ) -> tuple[str, RawRequestMessage, UrlMappingMatchInfo, str, int, float]:
        label = self.middleware.table.label(request)
        message = request._message  # noqa: SLF001
        return owner, message, request.match_info, label, min(limit, MAX_BODY), seconds

    def _store(self, head: bytes, known: KnownRouteHead | KnownClaimHead) -> None:
        if head in self._known:
            self._evict(head)
        self._known[head] = known
        self._of_owner.setdefault(known.owner, {})[head] = None
        if len(self._known) > MAX_HEADS:
            most = max(self._of_owner.values(), key=len)
            self._evict(next(iter(most)))

    def _evict(self, head: bytes) -> None:
        owner = self._known.pop(head).owner
        heads = self._of_owner[owner]
        del heads[head]
        if not heads:
            del self._of_owner[owner]


def matches_request(start: RequestStart, request: web.Request) -> bool:
    """Whether a head, without its variable parts, is that of a request, line by line."""
    message = request._message  # noqa: SLF001
    head, fields = start.key.removeprefix(MARK), message.raw_headers
    return (
        head.count(b"\r\n") == len(fields) + 2
        and head.startswith(
            f"{message.method} {message.path} HTTP/".encode("utf-8", "surrogateescape")
        )
        and all(
            _without_boundary(value, start.boundary) in head
            for name, value in fields
            if name.lower() != b"content-length"
        )
    )


def _without_boundary(value: bytes, boundary: bytes) -> bytes:
    """Return a header's value without a form's boundary at its end, if any."""
    quoted = b'"' if boundary and value.endswith(b'"') else b""
    ending = b"boundary=%b%b%b" % (quoted, boundary, quoted)
    if not boundary or not value.endswith(ending):
        return value
    return value.removesuffix(ending) + b"boundary=" + 2 * quoted


def _is_plain(request: web.Request) -> bool:
    """Whether requests with the same head differ in their bodies only."""
    message = request._message  # noqa: SLF001
    return (
        message.method == hdrs.METH_POST
        and message.version == HttpVersion11
        and not (message.should_close or message.upgrade or message.chunked or message.compression)
        and not any(name in message.headers for name in _VARYING_HEADERS)
    )
