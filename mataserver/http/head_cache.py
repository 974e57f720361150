"""The heads of requests that were answered, each with how such requests are answered.

A camera sends the same head with every picture, but for the digits of its length. A head is known
to the byte, and only after aiohttp's strict parser and a handler have taken it.
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
    from mataserver.http.head_parsing import Beginning
    from mataserver.http.middleware import Edge

MOST = 256
"""Heads that are known; of whoever has most of them, that learnt longest ago makes room."""
LARGEST = 9_000_000
"""Bytes of a body that follows a known head."""
_ODD = (
    *(hdrs.EXPECT, hdrs.ORIGIN, hdrs.UPGRADE, hdrs.TRANSFER_ENCODING, hdrs.CONTENT_ENCODING),
    *(hdrs.COOKIE, "X-Request-Id"),
)
"""Headers of requests that differ from each other, or of which more than the head is judged."""


class Repeat(Protocol):
    """How a handler answers requests that ask the same of it."""

    @property
    def form(self) -> Format:
        """The form of the answers."""
        ...

    def is_current(self) -> bool:
        """Whether it would still answer them so."""
        ...

    async def answer(self, body: bytes, boundary: bytes) -> Encoded:
        """Answer one, whose body is not empty. Raises what the handler does.

        ``boundary`` separates the parts of a form.
        """
        ...

    def begin(
        self, body: bytes, boundary: bytes, take: Callable[[Encoded | Exception], None]
    ) -> Callable[[], None] | None:
        """Begin to do so without a task; None where only ``answer`` can.

        ``take`` is called later, once, with what ``answer`` returns or raises; one of ``MOVED``
        says that ``answer`` is to be asked. Returns what takes the request back. Raises what is
        wrong with it.
        """
        ...


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a head that ``owner`` sent.

    ``limit`` and ``seconds`` are its body's, ``label`` the metrics'.
    """

    owner: str

    message: RawRequestMessage
    found: UrlMappingMatchInfo
    label: str
    limit: int
    seconds: float


@dataclass(frozen=True, slots=True)
class KnownRoute(Known):
    """One of a route; ``key`` let it in."""

    route: Route
    key: str
    repeat: Repeat


class Talk(Protocol):
    """The connection that such a request came by."""

    transport: asyncio.Transport | None

    @property
    def writing_paused(self) -> bool:
        """Whether its client is slower than the server."""
        ...

    @property
    def is_ending(self) -> bool:
        """Whether it takes no more requests."""
        ...

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begin what is done for one request, in the context of the connection."""
        ...

    def within(self, begin: Callable[..., Any], *args: Any) -> Any:
        """Call what begins something for one request in that context, and return what it gave."""
        ...

    def request(self, known: Known) -> web.Request | None:
        """Return a request whose head is known as aiohttp makes it; None once the client left."""
        ...

    def head(self, known: Known) -> web.Request | None:
        """Return a request that has a known head, for what is asked of that alone; else None."""
        ...

    def go_on(self, early: bytes) -> None:
        """Take the next request, of which something may have come already."""
        ...

    def hand_over(self, data: bytes, left: int) -> None:
        """Leave a request to aiohttp of which ``data`` came, and ``left`` bytes are to come."""
        ...

    def give_up(self) -> None:
        """Close the connection: the request under way gets no answer."""
        ...

    def hang_up(self, *, at_once: bool) -> None:
        """Take no more requests, and close the connection unless that comes later."""
        ...

    def handle_error(self, request: web.BaseRequest, *, exc: BaseException) -> web.StreamResponse:
        """Return the answer to what failed outside its handler."""
        ...


class Claim(NamedTuple):
    """How requests that a service claimed are answered, and what takes each on its way."""

    repeat: RepeatedClaim
    hit: type[Any]


@dataclass(frozen=True, slots=True)
class KnownClaim(Known):
    """One that a service claimed, and judges itself."""

    claim: Claim


class HeadCache:
    """The heads that a server knows; ``hits`` counts the requests that were answered by them."""

    def __init__(self, edge: Edge) -> None:
        self.edge = edge
        self.hits = 0
        self._known: dict[bytes, KnownRoute | KnownClaim] = {}
        self._of_owner: dict[str, dict[bytes, None]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def find(self, head: bytes, size: int) -> KnownRoute | KnownClaim | None:
        """Return what is known of a head, if such a body may still ask that.

        Whether whoever sends it may is for ``admits`` to tell.
        """
        known = self._known.get(head)
        if known is None or size > known.limit or self.edge.lifecycle.draining:
            return None
        repeat = known.claim.repeat if isinstance(known, KnownClaim) else known.repeat
        return known if repeat.is_current() else None

    def admits(self, head: bytes, known: KnownRoute | KnownClaim) -> bool:
        """Whether whoever sends a known head may still ask that; if not, it is known no more.

        To be asked last: a service counts it as a request, and one that then goes the long way
        is counted twice. A service judges itself what it claimed.
        """
        if isinstance(known, KnownClaim):
            return True
        principal = self.edge.gate.owner(known.key)
        if principal is not None and principal.may(known.route.needs):
            return True
        self._forget(head)
        return False

    def learn(self, head: bytes, request: web.Request, repeat: Repeat) -> None:
        """Know a head from now on, unless more than the head decides about such a request."""
        table, route = self.edge.table, request.get(ROUTE)
        key = self.edge.gate.sole_key(request)
        if (
            route is None
            or route.held
            or key is None
            or not table.is_sole(request)
            or not _is_plain(request)
        ):
            return
        limits = table.limits(request)
        if limits.idle:
            return
        principal = request.get(PRINCIPAL)
        if principal is not None and principal.background:  # which is noted on the long way alone
            return
        owner = "" if principal is None else principal.id
        of = self._of(request, owner, limits.size, limits.seconds)
        self._note(head, KnownRoute(*of, route, key, repeat))

    def learn_claimed(self, head: bytes, request: web.Request, claim: Claim) -> None:
        """Know the head of a request that the one service claimed which claims any."""
        if CLAIMED in request and len(self.edge.table.claims) == 1 and _is_plain(request):
            repeat = claim.repeat
            of = self._of(request, repeat.owner, repeat.limit, repeat.seconds)
            self._note(head, KnownClaim(*of, claim))

    def _of(
        self, request: web.Request, owner: str, limit: int, seconds: float
    ) -> tuple[str, RawRequestMessage, UrlMappingMatchInfo, str, int, float]:
        label = self.edge.table.label(request)
        message = request._message  # noqa: SLF001
        return owner, message, request.match_info, label, min(limit, LARGEST), seconds

    def _note(self, head: bytes, known: KnownRoute | KnownClaim) -> None:
        if head in self._known:
            self._forget(head)
        self._known[head] = known
        self._of_owner.setdefault(known.owner, {})[head] = None
        if len(self._known) > MOST:
            most = max(self._of_owner.values(), key=len)
            self._forget(next(iter(most)))

    def _forget(self, head: bytes) -> None:
        owner = self._known.pop(head).owner
        heads = self._of_owner[owner]
        del heads[head]
        if not heads:
            del self._of_owner[owner]


def is_of(beginning: Beginning, request: web.Request) -> bool:
    """Whether a head, without what differs, is that of a request: line by line."""
    message = request._message  # noqa: SLF001
    head, fields = beginning.key.removeprefix(MARK), message.raw_headers
    return (
        head.count(b"\r\n") == len(fields) + 2
        and head.startswith(
            f"{message.method} {message.path} HTTP/".encode("utf-8", "surrogateescape")
        )
        and all(
            _without(value, beginning.boundary) in head
            for name, value in fields
            if name.lower() != b"content-length"
        )
    )


def _without(value: bytes, boundary: bytes) -> bytes:
    """Return the value of a header without a form's boundary, where it ends with that."""
    quoted = b'"' if boundary and value.endswith(b'"') else b""
    ending = b"boundary=%b%b%b" % (quoted, boundary, quoted)
    if not boundary or not value.endswith(ending):
        return value
    return value.removesuffix(ending) + b"boundary=" + 2 * quoted


def _is_plain(request: web.Request) -> bool:
    """Whether the next request with the same head is the same in all but its body."""
    message = request._message  # noqa: SLF001
    return (
        message.method == hdrs.METH_POST
        and message.version == HttpVersion11
        and not (message.should_close or message.upgrade or message.chunked or message.compression)
        and not any(name in message.headers for name in _ODD)
    )
