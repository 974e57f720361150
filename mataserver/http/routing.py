"""The routes of a server: which one a request takes, and what its body may be."""

from __future__ import annotations

import inspect
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from aiohttp import web

from mataserver.contract.routes import Body, Route

__all__ = ["CLAIMED", "ROUTE", "Body", "Handlers", "Limits", "Route", "Table"]

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Container, Iterator, Sequence
    from typing import Self

    from aiohttp.web_urldispatcher import AbstractRoute

    from mataserver.contract.routes import ErrorForm, Handler

    Expect = Callable[[web.Request], Awaitable[web.StreamResponse | None]]


_GREEDY = ":.+}"
_VARIABLE = re.compile(r"\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}")


class Limits(NamedTuple):
    """What a body may take: bytes in all, and seconds in all or, if ``idle``, between chunks."""

    size: int
    seconds: float
    idle: bool


ROUTE: web.RequestKey[Route] = web.RequestKey("route", Route)
"""The route that was chosen for a request."""
REQUEST_ID: web.RequestKey[str] = web.RequestKey("request_id", str)
"""By which logs, answers and other front-ends tell of a request."""
CLAIMED: web.RequestKey[Handler] = web.RequestKey("claimed")
"""What answers a request that a service took before any route was looked at."""


class Table:
    """The routes that were added, and what services say about paths of theirs.

    It is not to be had from a request: what a plugin's handler sees of the application is aiohttp's
    alone. ``limits`` are those of a body whose route sets none. ``awaited`` tells what routes that
    there are not yet wait for.
    """

    def __init__(self, limits: Limits) -> None:
        self.routes: list[Route] = []
        self.forms: dict[str, ErrorForm] = {}
        self.claims: list[Callable[[web.Request], Handler | None]] = []
        self.awaited: Callable[[], str] = str
        self._limits = limits
        self._known: dict[AbstractRoute, Route] = {}
        self._labels: dict[AbstractRoute, str] = {}
        self._others: dict[AbstractRoute, list[Route]] = {}

    def add(self, application: web.Application, routes: Sequence[Route], expect: Expect) -> None:
        """Add all routes to an application; one with ``when`` beside that of its method and path.

        Raises what aiohttp does for one that it refuses.
        """
        declared = {shape(route.method, route.path) for route in routes}
        for route in routes:
            self.routes.append(route)
            if route.when is not None:
                self._add_other(route, declared)
                continue
            for method in _methods(route, declared):
                added = application.router.add_route(
                    method, route.path, awaited(route.handler), expect_handler=expect
                )
                self._known[added] = route
                if added.resource is not None:
                    self._labels[added] = added.resource.canonical

    def _add_other(self, route: Route, declared: Container[tuple[str, str]]) -> None:
        wanted = {shape(method, route.path) for method in _methods(route, declared)}
        for added, known in self._known.items():
            if shape(added.method, known.path) in wanted:
                self._others.setdefault(added, []).append(route)
                both = {**route.parameters, **known.parameters}
                self._known[added] = replace(known, parameters=both)

    def found(self) -> Iterator[AbstractRoute]:
        """Yield what aiohttp finds for requests, in the order of its being added."""
        yield from self._known

    def claimed(self, request: web.Request) -> Handler | None:
        """Return the handler of a service that takes a request before any route is looked at.

        Services are asked once: the short way asks before the middleware does.
        """
        if CLAIMED in request:
            return request[CLAIMED]
        for claims in self.claims:
            handler = claims(request)
            if handler is not None:
                request[CLAIMED] = handler
                return handler
        return None

    def choose(self, request: web.Request) -> Route | None:
        """Note and return the route of a request: the one aiohttp found, or one beside it."""
        found = request.match_info.route
        route = self._known.get(found)
        if route is None:
            return None
        if self._others:
            beside = self._others.get(found, ())
            route = next((each for each in beside if each.when and each.when(request)), route)
        request[ROUTE] = route
        return route

    async def methods_beside(self, request: web.Request) -> set[str]:
        """Return the methods of more exact paths that a request fits as well as that of its route.

        A name may hold slashes: ``GET /v2/models/m/infer`` asks for the model "m/infer", unless
        there is none, and then for what is asked with POST.
        """
        own = request.match_info.route.resource
        known = self._known.get(request.match_info.route)
        if own is None or known is None or not known.path.endswith(_GREEDY):
            return set()
        found: set[str] = set()
        for resource in request.app.router.resources():
            if resource.canonical != own.canonical:
                found |= (await resource.resolve(request))[1]
        return found - {request.method}

    def is_sole(self, request: web.Request) -> bool:
        """Whether its method and path alone chose the route of a request."""
        return not self.claims and request.match_info.route not in self._others

    def label(self, request: web.Request) -> str:
        """Return the route of a request as metrics name it."""
        # Looking for what is not there costs a microsecond.
        if self.claims and CLAIMED in request:
            return "claimed"
        found = request.match_info.route
        label = self._labels.get(found)
        if label is not None:
            return label
        resource = found.resource
        return "unmatched" if resource is None else resource.canonical

    def limits(self, request: web.Request) -> Limits:
        """Return what the body of a request may take."""
        limits = self._limits
        try:
            route = request[ROUTE]
        except KeyError:
            return limits
        if route.max_body is None and route.body_timeout != "idle":
            return limits
        size = limits.size if route.max_body is None else route.max_body
        return Limits(size, limits.seconds, route.body_timeout == "idle")


class Handlers:
    """Base of services that keep nothing between requests: nothing is entered or left."""

    async def __aenter__(self) -> Self:
        """Start nothing."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop nothing."""


def awaited(handler: Any) -> Any:
    """Return a handler as a coroutine function: aiohttp asserts what a plain one returns, wordless.

    It may return None: the edge knows its WebSocket.
    """
    if not callable(handler) or isinstance(handler, type) or inspect.iscoroutinefunction(handler):
        return handler

    async def call(request: web.Request) -> Any:
        found = handler(request)
        return await found if inspect.isawaitable(found) else found

    return call


def _methods(route: Route, declared: Container[tuple[str, str]]) -> tuple[str, ...]:
    """Return the methods of a route: a GET that gives a document answers HEAD too.

    A WebSocket gives none; a HEAD that is declared for the path counts instead.
    """
    if route.method != "GET" or not route.response or shape("HEAD", route.path) in declared:
        return (route.method,)
    return ("GET", "HEAD")


def shape(method: str, path: str) -> tuple[str, str]:
    """Return a route as what it matches: the names of its variables do not count."""
    return (method.upper(), _VARIABLE.sub("{}", path))
