"""Routes of services, which describe themselves, and the pages that they serve."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from mataserver.errors import MataError
from mataserver.principals import ANYBODY, SCOPES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from aiohttp import web

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse | None]]
    """Answers a request; nothing is returned where it accepted a WebSocket."""
    ErrorForm = Callable[[int, str], object]
    """Makes of a status and a sentence what is answered as JSON: a struct or a mapping."""
    Event = tuple[str, object] | tuple[str, object, str] | bytes
    """An event of a stream: name, value and perhaps an id, or all of it as it is sent."""


@dataclass(frozen=True, slots=True)
class Body:
    """A request or response body for the OpenAPI document.

    ``example`` is one that the server takes as it stands, of a form its fields.
    """

    content_type: str
    schema: Any = None
    example: Any = None


@dataclass(frozen=True, slots=True)
class Route:
    """One route and all that the OpenAPI document says about it.

    ``parameters`` are query parameters: name to (type, required, description); ``headers`` are
    those of the request, alike. ``errors`` are the statuses besides ``status`` that it answers, in
    the form of ``problem``; ``also`` are its further answers: status to bodies, none for an answer
    without one. An ``optional`` body may be left out. Without a ``summary`` it is
    served and not documented.

    ``public`` routes answer without credentials: ``request[PRINCIPAL]`` is then who asks, or None.
    Others answer those who have the scope ``needs``, of ``mataserver.SCOPES``; ``ANYBODY`` is
    whoever is known, and None asks for every scope. ``denied`` is the status for credentials that
    are not accepted.

    A body may have ``max_body`` bytes (the server's ``max_body_mb`` if None), which ``Expect``,
    ``Content-Length`` and the bytes themselves are held against. It must have arrived in
    ``body_timeout`` seconds in all, or with "idle" go on arriving.

    ``error_headers`` are those of every answer that is an error, whoever made it.

    ``when`` claims a route that exists already for the requests that it knows: its parameters and
    answers are then documented beside those of that route, and ``error_form`` makes the bodies of
    its errors, whoever made them, as ``error_forms()`` does for a whole path. ``socket`` says that
    it answers WebSockets: there, and nowhere else, ``?token=`` counts as credentials.

    ``held`` is the variable of the path that names what one front-end of several holds: the request
    is answered there, whichever was asked. Two plugins may hold things of one id; a camera is a
    session, so its route says ``"sessions:camera_id"``. ``"*"`` is what the handler asks of all.

    Raises ``MataError`` for a scope that there is not, and for a public route that needs one.
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

    def __post_init__(self) -> None:
        """Raise for what would answer others than was meant."""
        if self.public and self.needs is not None:
            raise MataError(
                f"{self.method} {self.path} is public, so it answers everybody: "
                f"it cannot need {self.needs!r}"
            )
        _check_needs(f"{self.method} {self.path}", self.needs)


class LastEvent(bytes):
    """The event behind which nothing follows: a client that then leaves has had everything."""


Group = Literal["use", "work", "operate"]
"""Where a navigation has a page."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page for people that a service serves: what the navigation shows, and where it is.

    ``icon`` is one character, or empty; ``needs`` the scope without which it is not shown;
    ``group`` where the navigation has it: what one tries, works on, or operates. Raises
    ``MataError`` for a scope or a group that there is not: nobody would be shown the page.
    """

    title: str
    path: str
    icon: str = ""
    needs: str = "any"
    group: Group = "work"

    def __post_init__(self) -> None:
        """Raise for a page that no navigation would show."""
        _check_needs(f"the page {self.path}", self.needs)
        if self.group not in get_args(Group):
            known = ", ".join(get_args(Group))
            raise MataError(f"the page {self.path}: group={self.group!r} is none of {known}")


def _check_needs(what: str, needs: str | None) -> None:
    """Raise ``MataError`` for a scope that nobody can have."""
    if needs is not None and needs != ANYBODY and needs not in SCOPES:
        known = ", ".join((*SCOPES, ANYBODY))
        raise MataError(f"{what}: needs={needs!r} is none of {known}")
