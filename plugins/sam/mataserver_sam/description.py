"""Describes the routes for the server's OpenAPI document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mataserver import Body, Route

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp import web

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

JSON = "application/json"
TAG = "SAM3"
_BODY_ERRORS = (400, 408, 413, 415, 422, 500, 503, 507)


def api_route(
    method: str,
    path: str,
    handler: Handler,
    summary: str,
    request: Any,
    answer: Any,
    *,
    errors: tuple[int, ...] = (),
    held: str = "",
) -> Route:
    """Return a route for clients that may infer; ``request`` is None without a body."""
    return Route(
        method,
        path,
        handler,
        summary,
        TAG,
        request=() if request is None else (Body(JSON, request),),
        response=(Body(JSON, answer),),
        errors=errors if request is None else tuple(sorted({*_BODY_ERRORS, *errors})),
        needs="infer",
        held="session_id" if "{session_id}" in path else held,
    )
