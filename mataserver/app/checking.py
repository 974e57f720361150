"""What a service gives is checked before it counts: methods, routes and forms of errors."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from aiohttp import web

from mataserver.contract.routes import Route
from mataserver.contract.service import Service
from mataserver.http import openapi
from mataserver.http.routing import awaited, shape
from mataserver.plugins import PluginError
from mataserver.plugins.admission import check_called, several

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mataserver.contract.routes import ErrorForm

AWAITED = ("authenticate", "on_result", "session_source")
PLAIN = (
    "admits",
    "claims",
    "error_forms",
    "owner_of",
    "pages",
    "ping",
    "ready",
    "reconfigure",
    "routes",
    "waiting",
)
"""What a service may offer: coroutines, and what must answer at once."""


def checked(
    service: object, taken: set[tuple[str, str]]
) -> tuple[Service, tuple[Route, ...], Mapping[str, ErrorForm]]:
    """Return a service, its routes and its forms of errors.

    Raises ``PluginError`` for what cannot be served, or is taken already.
    """
    if not isinstance(service, Service):
        raise PluginError("service() must return an object with routes() and async enter and exit")
    _check_methods(service)
    required = getattr(service, "requires", ())
    if isinstance(required, str) or not all(isinstance(each, str) for each in required):
        raise PluginError("requires must be a tuple of the names of plugins")
    routes = _routes(service, taken)
    _try(routes)
    return service, routes, _forms(service)


def _check_methods(service: Service) -> None:
    """Raise ``PluginError`` for a method that is awaited and is no coroutine, or the other way.

    Else a plain ``authenticate`` failed with the first request, and a coroutine ``claims``, which
    is always true, took every request.
    """
    for name, method in ((each, getattr(service, each, None)) for each in (*AWAITED, *PLAIN)):
        if method is not None and inspect.iscoroutinefunction(method) != (name in AWAITED):
            raise PluginError(f"{name}() must be {'async' if name in AWAITED else 'a plain'} def")


def _try(routes: Sequence[Route]) -> None:
    """Add routes to a router that serves nobody: what fails here is this service's fault alone.

    Raises ``PluginError`` for what aiohttp refuses.
    """
    router = web.UrlDispatcher()
    for route in routes:
        if route.when is not None:
            continue
        try:
            router.add_route(route.method, route.path, awaited(route.handler))
        # aiohttp asserts that a handler can be called, and tells of two that clash at run time.
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:
            said = f"{route.method} {route.path}: {error}"
            raise PluginError(f"its route cannot be served: {said}") from None


def check_described(routes: Sequence[Route]) -> None:
    """Raise ``PluginError`` for routes that ``GET /openapi.json`` could not describe.

    Types without a JSON Schema, and statuses that there are not.
    """
    try:
        openapi.document(routes, "")
    except (RuntimeError, TypeError, ValueError) as error:
        raise PluginError(f"its routes cannot be described: {error}") from None


def _forms(service: Any) -> Mapping[str, ErrorForm]:
    """Return a service's forms of errors by prefix. Raises ``PluginError`` for what is none."""
    forms = service.error_forms() if hasattr(service, "error_forms") else {}
    for prefix, form in dict(forms).items():
        if not (isinstance(prefix, str) and prefix.startswith("/") and callable(form)):
            raise PluginError(f"error_forms() must give functions by prefix, not {prefix!r}")
        check_called(form, f"error_forms(): the function of {prefix}", "status, detail")
    return forms


def _routes(service: Service, taken: set[tuple[str, str]]) -> tuple[Route, ...]:
    given = several(service.routes(), "routes() must return routes")
    routes = tuple(route for each in given for route in _described(each))
    seen = set(taken)
    for route in routes:
        own = shape(route.method, route.path)
        exists = own in seen or ("*", own[1]) in seen
        if exists and route.when is None:
            raise PluginError(f"its route exists already: {route.method} {route.path}")
        if not exists and route.when is not None:
            raise PluginError(f"its route claims none that exists: {route.method} {route.path}")
        seen.add(own)
    return routes


def _described(given: Any) -> tuple[Route, ...]:
    """Return what a service gave as routes: a ``RouteDef`` is served and not documented."""
    if isinstance(given, Route):
        return (given,)
    if not isinstance(given, web.RouteDef):
        raise PluginError(f"routes() gave a {type(given).__name__}, not a mataserver.Route")
    route = Route(given.method, given.path, given.handler, documented=False)
    if given.method == "GET" and given.kwargs.get("allow_head", False):
        return (route, Route("HEAD", given.path, given.handler, documented=False))
    return (route,)
