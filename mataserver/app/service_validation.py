"""Validation of services before they are used: methods, routes and error forms."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from aiohttp import web

from mataserver.contract.routes import Route
from mataserver.contract.service import Service
from mataserver.http import openapi
from mataserver.http.routing import as_coroutine, route_pattern
from mataserver.plugins import PluginError
from mataserver.plugins.validation import check_signature, require_iterable
from mataserver.signatures import call_problem

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

    from mataserver.contract.routes import ErrorForm

_COROUTINES = {"authenticate": "credentials", "on_result": "event", "session_source": "source, fps"}
_FUNCTIONS = {
    "admits": "name, service",
    "claims": "request",
    "error_forms": "",
    "owner_of": "secret",
    "pages": "",
    "ping": "",
    "ready": "",
    "reconfigure": "settings",
    "routes": "",
    "waiting": "",
}
"""Methods of a service, coroutines and plain ones, with the arguments that they are called with."""


def validate_service(
    service: object, existing: set[tuple[str, str]], prefixes: Container[str]
) -> tuple[Service, tuple[Route, ...], Mapping[str, ErrorForm]]:
    """Return a service, its routes and its error forms.

    Raises ``PluginError`` for an invalid service, for routes that are in ``existing``, and for
    error forms whose prefix is in ``prefixes``.
    """
    if not isinstance(service, Service):
        raise PluginError("service() must return an object with routes() and async enter and exit")
    _check_methods(service)
    required = getattr(service, "requires", ())
    if isinstance(required, str) or not all(isinstance(each, str) for each in required):
        raise PluginError("requires must be a tuple of the names of plugins")
    routes = _routes(service, existing)
    _try_routes(routes)
    return service, routes, _error_forms(service, prefixes)


def _check_methods(service: Service) -> None:
    """Raise ``PluginError`` for a method that cannot be called as the server calls it.

    Otherwise a plain ``authenticate``, or one that takes nothing, would fail at the first request,
    and a coroutine ``claims``, whose result is always true, would claim every request.
    """
    for name, given in (_COROUTINES | _FUNCTIONS).items():
        method, awaited = getattr(service, name, None), name in _COROUTINES
        if method is None:  # as a service says that it lacks one of its base class
            continue
        if not callable(method):
            raise PluginError(f"{name} must be a method, not a {type(method).__name__}")
        if inspect.iscoroutinefunction(method) != awaited:
            raise PluginError(f"{name}() must be {'async' if awaited else 'a plain'} def")
        if problem := call_problem(method, given):
            raise PluginError(f"{name}() {problem}")


def _try_routes(routes: Sequence[Route]) -> None:
    """Add routes to a separate router, so that an error can be attributed to this service.

    Raises ``PluginError`` for routes that aiohttp rejects, and for functions of theirs that cannot
    be called as the server calls them.
    """
    router = web.UrlDispatcher()
    for route in routes:
        what = f"{route.method} {route.path}"
        if not isinstance(route.handler, type):  # a view of aiohttp
            problem = call_problem(route.handler, "request")
            if problem:
                raise PluginError(f"{what}: its handler {problem}")
        check_signature(route.error_form, f"{what}: error_form", "status, detail")
        if route.when is not None:
            check_signature(route.when, f"{what}: when", "request")
            continue
        try:
            router.add_route(route.method, route.path, as_coroutine(route.handler))
        # aiohttp asserts that a handler is callable, and reports conflicts as RuntimeError.
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:
            raise PluginError(f"its route cannot be served: {what}: {error}") from None


def check_openapi(routes: Sequence[Route]) -> None:
    """Raise ``PluginError`` for routes that the OpenAPI document cannot describe.

    These have types without a JSON Schema, or statuses that do not exist.
    """
    try:
        openapi.document(routes, "")
    except (RuntimeError, TypeError, ValueError) as error:
        raise PluginError(f"its routes cannot be described: {error}") from None


def _error_forms(service: Any, taken: Container[str]) -> Mapping[str, ErrorForm]:
    """Return a service's error forms by prefix. Raises ``PluginError`` for invalid ones.

    Those of a prefix in ``taken`` would replace another service's.
    """
    forms = service.error_forms() if getattr(service, "error_forms", None) else {}
    for prefix, form in dict(forms).items():
        if not (isinstance(prefix, str) and prefix.startswith("/") and callable(form)):
            raise PluginError(f"error_forms() must give functions by prefix, not {prefix!r}")
        if prefix.rstrip("/") in {"", "/v1"}:
            raise PluginError(f"error_forms(): {prefix} holds errors of others, too: name a part")
        check_signature(form, f"error_forms(): the function of {prefix}", "status, detail")
        if prefix in taken:
            raise PluginError(f"error_forms(): another plugin has the form of {prefix}")
    return forms


def _routes(service: Service, existing: set[tuple[str, str]]) -> tuple[Route, ...]:
    given = require_iterable(service.routes(), "routes() must return routes")
    routes = tuple(route for each in given for route in _as_routes(each))
    seen = set(existing)
    for route in routes:
        own = route_pattern(route.method, route.path)
        exists = own in seen or ("*", own[1]) in seen
        if exists and route.when is None:
            raise PluginError(f"its route exists already: {route.method} {route.path}")
        if not exists and route.when is not None:
            raise PluginError(f"its route claims none that exists: {route.method} {route.path}")
        seen.add(own)
    return routes


def _as_routes(given: Any) -> tuple[Route, ...]:
    """Convert a service's route; a ``RouteDef`` is served but not documented."""
    if isinstance(given, Route):
        return (given,)
    if not isinstance(given, web.RouteDef):
        raise PluginError(f"routes() gave a {type(given).__name__}, not a mataserver.Route")
    route = Route(given.method, given.path, given.handler, documented=False)
    if given.method == "GET" and given.kwargs.get("allow_head", False):
        return (route, Route("HEAD", given.path, given.handler, documented=False))
    return (route,)
