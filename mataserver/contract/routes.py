"""Routes of services, with their documentation, and the pages that they serve."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from mataserver.errors import MataError
from mataserver.principals import ANYBODY, SCOPES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp import web

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse | None]]
    """Answers a request; nothing is returned where it accepted a WebSocket."""
    ErrorForm = Callable[[int, str], object]
    """Builds the JSON body of an error from a status and a sentence: a struct or a mapping."""
    Event = tuple[str, object] | tuple[str, object, str] | bytes
    """An event of a stream: name, value and optionally an id, or its encoded bytes."""

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
"""What no header may contain (RFC 9110, section 5.5)."""


@dataclass(frozen=True, slots=True)
class Body:
    """A request or response body for the OpenAPI document.

    ``example`` is a valid body; for a form, its fields.
    """

    content_type: str
    schema: Any = None
    example: Any = None


@dataclass(frozen=True, slots=True)
class Route:
    """One route, with everything that the OpenAPI document says about it.

    ``parameters`` are query parameters: name to (type, required, description); ``headers`` likewise
    those of the request. With ``checks_query`` the handler itself judges parameters of the query
    that are not described, as those of a model; otherwise the answer warns of them. ``errors`` are
    the statuses besides ``status`` that it answers, in the form of ``problem``; ``also`` are
    further answers: status to bodies, empty for none. An ``optional`` body may be omitted. A route
    without a ``summary`` is served but not documented.

    ``public`` routes need no credentials: ``request[PRINCIPAL]`` is then the caller, or None.
    Others require the scope ``needs``, of ``mataserver.SCOPES``; ``ANYBODY`` requires only a known
    caller, and None every scope. ``denied`` is the status for rejected credentials.

    ``max_body`` limits the body in bytes (None: the server's ``max_body_mb``), checked at
    ``Expect``, at ``Content-Length`` and while reading. The body must arrive within
    ``body_timeout`` seconds in total, or with "idle" never stall that long.

    ``error_headers`` are added to every error answer, whatever produced it. ``answer_headers``
    describe those that the handler adds to other answers: name to description.

    ``when`` claims an existing route for matching requests: its parameters and answers are
    documented beside that route's, and ``error_form`` builds the bodies of its errors, whatever
    produced them, as ``error_forms()`` does for a whole path. ``socket`` marks a WebSocket route:
    only there ``?token=`` counts as credentials.

    ``held`` names the path variable that identifies a resource of one front-end among several: the
    request is relayed there, whichever received it. Ids are scoped by plugin; a camera is a
    session, so its route says ``"sessions:camera_id"``. ``"*"`` marks a route whose handler gathers
    from all.

    Raises ``MataError`` for an unknown scope, for a public route that requires one, and for limits
    and headers that could not be applied.
    """

    method: str
    path: str
    handler: Handler
    summary: str = ""
    tag: str = ""
    request: tuple[Body, ...] = ()
    response: tuple[Body, ...] = ()
    status: int = 200
    errors: tuple[int, ...] = ()
    parameters: dict[str, tuple[Any, bool, str]] = field(default_factory=dict)
    headers: dict[str, tuple[Any, bool, str]] = field(default_factory=dict)
    problem: Any = None
    optional: bool = False
    public: bool = False
    needs: str | None = None
    denied: int = 403
    max_body: int | None = None
    body_timeout: Literal["total", "idle"] = "total"
    error_headers: dict[str, str] = field(default_factory=dict)
    when: Callable[[web.Request], bool] | None = None
    error_form: ErrorForm | None = None
    documented: bool = True
    socket: bool = False
    held: str = ""
    also: Mapping[int, tuple[Body, ...]] = field(default_factory=dict)
    answer_headers: Mapping[str, str] = field(default_factory=dict)
    checks_query: bool = False

    def __post_init__(self) -> None:
        """Reject a route that would be open to other callers than intended."""
        if self.public and self.needs is not None:
            raise MataError(
                f"{self.method} {self.path} is public, so it answers everybody: "
                f"it cannot need {self.needs!r}"
            )
        what = f"{self.method} {self.path}"
        _check_needs(what, self.needs)
        most, timeouts = self.max_body, ("total", "idle")
        if most is not None and (type(most) is not int or most < 0):
            raise MataError(f"{what}: max_body={most!r} is not a number of bytes")
        if self.body_timeout not in timeouts:
            known = ", ".join(timeouts)
            raise MataError(f"{what}: body_timeout={self.body_timeout!r} is none of {known}")
        if not isinstance(self.error_headers, Mapping):
            raise MataError(f"{what}: error_headers must be texts by the names of headers")
        if problem := header_problem(self.error_headers):
            raise MataError(f"{what}: error_headers: {problem}")


class LastEvent(bytes):
    """The final event of a stream: a client that disconnects after it has received everything."""


Group = Literal["use", "work", "operate"]
"""The section of the navigation that lists a page."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page that a service serves, as the navigation lists it.

    ``icon`` is one character, or empty; ``needs`` the scope required to see it; ``group`` the
    section: to use, to work, or to operate. Raises ``MataError`` for the path of another host, and
    for an unknown scope or group, with which the page would never be shown.
    """

    title: str
    path: str
    icon: str = ""
    needs: str = "any"
    group: Group = "work"

    def __post_init__(self) -> None:
        """Reject a page that no navigation would show."""
        if not self.path.startswith("/") or self.path.startswith("//"):
            raise MataError(f"the page {self.path}: its path must begin with a single /")
        _check_needs(f"the page {self.path}", self.needs)
        if self.group not in get_args(Group):
            known = ", ".join(get_args(Group))
            raise MataError(f"the page {self.path}: group={self.group!r} is none of {known}")


def header_problem(headers: Mapping[Any, Any]) -> str:
    """Return why headers cannot be sent, or an empty text."""
    for name, value in headers.items():
        if not (isinstance(name, str) and isinstance(value, str)):
            return f"header {name!r} is {type(value).__name__}, not text"
        printable = value.isprintable() and name.isprintable()  # all but rare ones: a fast test
        if not printable and (_CONTROL.search(value) or _CONTROL.search(name)):
            return f"header {name!r} has a line break or another control character"
    return ""


def _check_needs(what: str, needs: str | None) -> None:
    if needs is not None and needs != ANYBODY and needs not in SCOPES:
        known = ", ".join((*SCOPES, ANYBODY))
        raise MataError(f"{what}: needs={needs!r} is none of {known}")
