"""The server's routes: matching of requests, and limits of their bodies."""

from __future__ import annotations

import inspect
import logging
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from aiohttp import hdrs, web
from aiohttp.web_urldispatcher import MatchInfoError
from yarl import URL

from mataserver.contract.routes import Body, Route
from mataserver.logs import RateLimitedLog
from mataserver.plugin_ends import ends_as_errors

__all__ = ["CLAIMED", "ROUTE", "Body", "BodyLimits", "Route", "RouteTable", "StatelessService"]

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Container, Iterator, Sequence
    from typing import Self

    from aiohttp.web_urldispatcher import AbstractRoute, UrlMappingMatchInfo

    from mataserver.contract.routes import ErrorForm, Handler

    Expect = Callable[[web.Request], Awaitable[web.StreamResponse | None]]


log = logging.getLogger("mataserver.http")

FAILURE_INTERVAL = 60.0
"""Seconds between two lines of the log about a service that fails at each request."""
MAX_STEPS = 300
"""Maximum slashes of a path; a model's name of 512 characters has 255 at most."""
_GREEDY = ":.+}"
_PATH_VARIABLE = re.compile(r"\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}")


class BodyLimits(NamedTuple):
    """A body's limits: bytes in total, and seconds in total or, if ``idle``, between chunks."""

    size: int
    seconds: float
    idle: bool


ROUTE: web.RequestKey[Route] = web.RequestKey("route", Route)
"""The route chosen for a request."""
CLAIMED: web.RequestKey[Handler] = web.RequestKey("claimed")
"""The handler of a service that claimed a request before routing."""


class Router(web.UrlDispatcher):
    """aiohttp's router without the paths that would keep everybody waiting.

    It looks up a path without its last step, and so on, and copies the rest each time: with the
    8,000 slashes that a request's line may have, three times for the hint, that took 45 ms.
    """

    async def resolve(self, request: web.Request) -> UrlMappingMatchInfo:
        """Return a request's route; none for a path of more than ``MAX_STEPS`` slashes."""
        if request.rel_url.raw_path.count("/") > MAX_STEPS:
            return MatchInfoError(web.HTTPNotFound())
        return await super().resolve(request)


class RouteTable:
    """The added routes, and what services declare about their paths.

    Not reachable from a request: a plugin's handler sees only aiohttp's application. ``limits``
    apply to routes without their own. ``restart_reason`` returns why further routes need a restart.
    """

    def __init__(self, limits: BodyLimits) -> None:
        self.routes: list[Route] = []
        self.forms: dict[str, ErrorForm] = {}
        self.claims: list[tuple[str, Callable[[web.Request], Handler | None]]] = []
        self.restart_reason: Callable[[], str] = str
        self._limits = limits
        self._failures = RateLimitedLog(log, FAILURE_INTERVAL)
        self._routes: dict[AbstractRoute, Route] = {}
        self._labels: dict[AbstractRoute, str] = {}
        self._conditional: dict[AbstractRoute, list[Route]] = {}

    def add(self, application: web.Application, routes: Sequence[Route], expect: Expect) -> None:
        """Add all routes to an application; one with ``when`` beside that of its method and path.

        Raises aiohttp's error for an invalid one.
        """
        declared = {route_pattern(route.method, route.path) for route in routes}
        for route in routes:
            self.routes.append(route)
            if route.when is not None:
                self._add_conditional(route, declared)
                continue
            for method in _methods(route, declared):
                added = application.router.add_route(
                    method, route.path, as_coroutine(route.handler), expect_handler=expect
                )
                self._routes[added] = route
                if added.resource is not None:
                    self._labels[added] = added.resource.canonical

    def _add_conditional(self, route: Route, declared: Container[tuple[str, str]]) -> None:
        wanted = {route_pattern(method, route.path) for method in _methods(route, declared)}
        for added, known in self._routes.items():
            if route_pattern(added.method, known.path) in wanted:
                self._conditional.setdefault(added, []).append(route)
                both = {**route.parameters, **known.parameters}
                self._routes[added] = replace(known, parameters=both)

    def resolved_routes(self) -> Iterator[AbstractRoute]:
        """Yield aiohttp's routes in the order in which they were added."""
        yield from self._routes

    def claiming_handler(self, request: web.Request) -> Handler | None:
        """Return the handler of a service that claims a request before routing.

        Services are consulted once: the fast path calls this before the middleware does. Each is
        asked about every request, so one that fails must not answer for all of them.
        """
        if CLAIMED in request:
            return request[CLAIMED]
        for name, claims in self.claims:
            try:
                with ends_as_errors():
                    handler = _require_handler(claims(request))
            except Exception as error:  # noqa: BLE001 - a plugin may raise anything
                self._failures.warn(name, f"claims() of the plugin {name} failed", error)
                continue
            if handler is not None:
                request[CLAIMED] = handler
                return handler
        return None

    def resolve(self, request: web.Request) -> Route | None:
        """Choose, store and return a request's route: aiohttp's, or a conditional one."""
        found = request.match_info.route
        route = self._routes.get(found)
        if route is None:
            return None
        if self._conditional:
            conditional = self._conditional.get(found, ())
            route = next((each for each in conditional if each.when and each.when(request)), route)
        request[ROUTE] = route
        return route

    def serves(self, address: str) -> bool:
        """Whether the path of an address has a route for GET."""
        path = URL(address).raw_path
        for added in self._routes:
            info = added.get_info()
            pattern = info.get("pattern")
            matches = info.get("path") == path if pattern is None else pattern.fullmatch(path)
            if matches and added.method in {hdrs.METH_GET, hdrs.METH_ANY}:
                return True
        return False

    async def other_methods(self, request: web.Request) -> set[str]:
        """Return the methods of more specific paths that also match a request.

        A name may contain slashes: ``GET /v2/models/m/infer`` is a request for the model "m/infer"
        if it exists, and otherwise for a route with the method POST.
        """
        own = request.match_info.route.resource
        known = self._routes.get(request.match_info.route)
        if own is None or known is None or not known.path.endswith(_GREEDY):
            return set()
        found: set[str] = set()
        for resource in request.app.router.resources():
            if resource.canonical != own.canonical:
                found |= (await resource.resolve(request))[1]
        return found - {request.method}

    async def version_hint(self, request: web.Request) -> str:
        """Return what is wrong with a path that has a route with a /v1 more, or one less, or "".

        Of two clients with a base URL, one adds /v1 to it, and the other does not. The answer has
        the form of the route that was meant: a client may show no other.
        """
        if request.match_info.http_exception is None:  # a handler raised it
            return ""
        base, twice, rest = request.rel_url.raw_path.partition("/v1/v1/")
        if twice:
            bases = {f"{base}/v1": rest}
        else:
            first, _, behind = base.removeprefix("/").partition("/")
            bases = {"/v1": base.removeprefix("/"), f"/{first}/v1": behind}
        for meant, rest in bases.items():
            there = request.clone(rel_url=URL(f"{meant}/{rest}", encoded=True))
            found = await request.app.router.resolve(there)
            resource = found.route.resource
            if resource is None or not resource.canonical.startswith(f"{meant}/"):
                continue
            there._match_info = found  # noqa: SLF001 - as aiohttp does
            if route := self.resolve(there):
                request[ROUTE] = route
            return (
                f"the path must begin with {meant} exactly once; a client's base URL must end in "
                "it, unless the client itself adds /v1, as mataserver's do"
            )
        return ""

    def is_unconditional(self, request: web.Request) -> bool:
        """Whether method and path alone chose a request's route."""
        return not self.claims and request.match_info.route not in self._conditional

    def label(self, request: web.Request) -> str:
        """Return the name of a request's route in metrics."""
        # Looking up a missing key costs a microsecond.
        if self.claims and CLAIMED in request:
            return "claimed"
        found = request.match_info.route
        label = self._labels.get(found)
        if label is not None:
            return label
        resource = found.resource
        return "unmatched" if resource is None else resource.canonical

    def limits(self, request: web.Request) -> BodyLimits:
        """Return the limits of a request's body."""
        limits = self._limits
        try:
            route = request[ROUTE]
        except KeyError:
            return limits
        if route.max_body is None and route.body_timeout != "idle":
            return limits
        size = limits.size if route.max_body is None else route.max_body
        return BodyLimits(size, limits.seconds, route.body_timeout == "idle")


class StatelessService:
    """Base of stateless services: entering and leaving do nothing."""

    async def __aenter__(self) -> Self:
        """Do nothing."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Do nothing."""


def as_coroutine(handler: Any) -> Any:
    """Return a handler as a coroutine function: aiohttp only asserts the result of a plain one.

    It may return None: the middleware then returns the WebSocket that it accepted.
    """
    if not callable(handler) or isinstance(handler, type) or inspect.iscoroutinefunction(handler):
        return handler

    async def call(request: web.Request) -> Any:
        found = handler(request)
        return await found if inspect.isawaitable(found) else found

    return call


def _require_handler(given: Handler | None) -> Handler | None:
    """Return what a plugin gave. Raises ``TypeError`` for anything but a handler or None."""
    if given is None or callable(given):
        return given
    raise TypeError(f"it gave a {type(given).__name__}, not a handler")


def _methods(route: Route, declared: Container[tuple[str, str]]) -> tuple[str, ...]:
    """Return the route's methods: a GET for a document also answers HEAD.

    A WebSocket has no HEAD; a HEAD declared for the path takes precedence.
    """
    if route.method != "GET" or not route.response or route_pattern("HEAD", route.path) in declared:
        return (route.method,)
    return ("GET", "HEAD")


def route_pattern(method: str, path: str) -> tuple[str, str]:
    """Return a route's pattern with the variables' names removed."""
    return (method.upper(), _PATH_VARIABLE.sub("{}", path))
