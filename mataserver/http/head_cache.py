"""Cache of request heads that were answered, with how to answer such requests again.

A camera sends the same head with every picture, except for the digits of its length; and a form's
boundary, which most clients generate anew. A head is cached byte for byte, without these, and only
after aiohttp's strict parser and a handler have accepted it.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, Protocol

from aiohttp import HttpVersion11, hdrs

from mataserver.http.auth import PRINCIPAL
from mataserver.http.routing import CLAIMED, ROUTE

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web
    from aiohttp.http import RawRequestMessage
    from aiohttp.web_urldispatcher import UrlMappingMatchInfo

    from mataserver.contract.claims import RepeatedClaim
    from mataserver.contract.routes import Route
    from mataserver.http.infer_repeats import InferRepeat
    from mataserver.http.middleware import RequestMiddleware
    from mataserver.principals import Principal

MAX_HEAD = 2_048
"""Maximum bytes of a head that is inspected."""
MAX_EARLY = 1 << 16
"""Bytes of following requests that are read while one is being answered."""
MARK = _END = b"\r\n\r\n"
"""A prefix that no head has: of the key of one that a boundary was cut out of."""
_LENGTH = b"\r\ncontent-length: "
_KIND = b"\r\ncontent-type: "
_FORM = b"multipart/form-data; boundary="
_BOUNDARY = re.compile(rb'([\w-]{8,70})\r\n|"([\w-]{8,70})"\r\n')
"""Common boundaries, restricted to characters without special meaning to any parser."""
_UNCERTAIN = (b"\r\ntransfer-encoding", b"\r\nupgrade", b"\r\ncontent-length")
"""Header lines, in lower case, that may make a message end elsewhere than a plain one."""
MAX_HEADS = 256
"""Maximum number of heads; the owner with the most loses its oldest ones."""
MAX_BODY = 9_000_000
"""Maximum bytes of a body after a known head."""
_VARYING_HEADERS = (
    *(hdrs.EXPECT, hdrs.ORIGIN, hdrs.UPGRADE, hdrs.TRANSFER_ENCODING, hdrs.CONTENT_ENCODING),
    *(hdrs.COOKIE, "X-Request-Id"),
)
"""Headers that vary between requests, or make more than the head decide about the answer."""


class RequestStart(NamedTuple):
    """The beginning of a request.

    ``key`` is the head without its variable parts, empty if it must not be looked up; ``end`` and
    ``size`` are the bytes of head and body; ``boundary`` separates the parts of a form.
    ``is_uncertain``: the message may end elsewhere.
    """

    key: bytes
    end: int
    size: int
    boundary: bytes
    is_uncertain: bool


def parse_start(data: bytes) -> RequestStart | None:
    """Parse the beginning of a message; None unless it has a complete, short head."""
    end = data.find(_END, 0, MAX_HEAD) + len(_END)
    if end < len(_END):
        return None
    head = data[:end].lower()
    at = head.find(_LENGTH) + len(_LENGTH)
    digits = data[at : head.find(b"\r\n", at)] if at >= len(_LENGTH) else b""
    size = int(digits) if digits.isdigit() and len(digits) < 8 else 0
    key = boundary = b""
    if size and not digits.startswith(b"0"):
        key, boundary = _cut_variable_parts(data[:end], head, at, at + len(digits))
    # Content-Length makes the end uncertain only if it could not be parsed.
    is_uncertain = any(line in head for line in (_UNCERTAIN[:2] if size else _UNCERTAIN))
    # Parsers end a CONNECT at its head, whatever its length says.
    is_uncertain = is_uncertain or head.lstrip().startswith(b"connect ")
    return RequestStart(key, end, size, boundary, is_uncertain)


def _cut_variable_parts(head: bytes, lower: bytes, begin: int, end: int) -> tuple[bytes, bytes]:
    """Cut the digits of the length and a form's boundary out of a head; return it and that."""
    kind = lower.find(_KIND) + len(_KIND)
    found = None
    if kind >= len(_KIND) and head.startswith(_FORM, kind):
        found = _BOUNDARY.match(head, kind + len(_FORM))
    if found is None or lower.find(_KIND, kind) >= 0:
        return head[:begin] + head[end:], b""
    first, last = found.span(found.lastindex or 0)
    if first < begin:
        pieces = MARK, head[:first], head[last:begin], head[end:]
    else:
        pieces = MARK, head[:begin], head[end:first], head[last:]
    return b"".join(pieces), head[first:last]


class RepeatedRequest(Protocol):
    """A request with a known head, as its connection sees it.

    ``caller`` is the sender, unless a service authenticates it.
    """

    caller: Principal | None

    def begin(self, data: bytes, head: RequestStart) -> None:
        """Process the first data: the head, and the body or its beginning."""

    def receive(self, data: bytes) -> None:
        """Process further data: of the body, or of the next request."""

    def abandon(self) -> None:
        """Stop: the client has disconnected."""


@dataclass(frozen=True, slots=True)
class KnownHead:
    """The cached properties of a head sent by ``owner``.

    ``limit`` and ``seconds`` are the limits of its body, ``label`` is its label in metrics. Further
    requests are answered by ``repeat``, each in what ``make_request`` returns. Those of a ``route``
    are admitted by ``key``, others by the service that claims them.
    """

    owner: str
    message: RawRequestMessage
    found: UrlMappingMatchInfo
    label: str
    limit: int
    seconds: float
    repeat: InferRepeat | RepeatedClaim
    make_request: Callable[..., RepeatedRequest]
    route: Route | None = None
    key: str = ""


class HeadCache:
    """The known heads of a server; ``hits`` counts the requests answered by them."""

    def __init__(self, middleware: RequestMiddleware) -> None:
        self.middleware = middleware
        self.hits = 0
        self._known: dict[bytes, KnownHead] = {}

    def __len__(self) -> int:
        return len(self._known)

    def find(self, head: bytes, size: int) -> KnownHead | None:
        """Return what is known of a head, if it is still valid and the body is not too large.

        Authorization is checked by ``caller``.
        """
        known = self._known.get(head)
        if known is None or size > known.limit or self.middleware.lifecycle.is_draining:
            return None
        return known if known.repeat.is_current() else None

    def caller(self, head: bytes, key: str, route: Route) -> Principal | None:
        """Return the sender of a known head; if it is not authorized any more, forget the head.

        Must be the last check: a service counts it as a request, and a request that then takes the
        general path is counted twice. Claimed requests are authorized by their service.
        """
        principal = self.middleware.gate.owner(key)
        if principal is not None and principal.may(route.needs):
            return principal
        del self._known[head]
        return None

    def learn(
        self,
        head: bytes,
        request: web.Request,
        repeat: InferRepeat,
        make_request: Callable[..., RepeatedRequest],
    ) -> None:
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
        self._store(head, KnownHead(*common, repeat, make_request, route, key))

    def learn_claimed(
        self,
        head: bytes,
        request: web.Request,
        repeat: RepeatedClaim,
        make_request: Callable[..., RepeatedRequest],
    ) -> None:
        """Cache the head of a claimed request, if only one service claims requests."""
        if CLAIMED in request and len(self.middleware.table.claims) == 1 and _is_plain(request):
            common = self._common_fields(request, repeat.owner, repeat.limit, repeat.seconds)
            self._store(head, KnownHead(*common, repeat, make_request))

    def _common_fields(
        self, request: web.Request, owner: str, limit: int, seconds: float
    ) -> tuple[str, RawRequestMessage, UrlMappingMatchInfo, str, int, float]:
        label = self.middleware.table.label(request)
        message = request._message  # noqa: SLF001
        return owner, message, request.match_info, label, min(limit, MAX_BODY), seconds

    def _store(self, head: bytes, known: KnownHead) -> None:
        self._known.pop(head, None)  # it becomes the newest
        self._known[head] = known
        if len(self._known) > MAX_HEADS:
            owners = Counter(each.owner for each in self._known.values())
            [(most, count)] = owners.most_common(1)
            theirs = (head for head, of in self._known.items() if of.owner == most)
            # A part at once: whoever sends another head each time would pay for counting each time.
            for old in list(islice(theirs, max(1, count // 8))):
                del self._known[old]


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
