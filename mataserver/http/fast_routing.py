"""Fast path of requests to handlers, and of answers to the socket.

Between its parser and a handler aiohttp resolves the route and builds the middleware chain; after
the handler an answer passes steps for streams, compression and HTTP/1.0. Here paths without
variables are resolved beforehand, claimed requests are not resolved at all, and a complete answer
to a plain request skips those steps. Everything else takes aiohttp's path. Both produce the same
bytes: the recorded answers are requested on both (tests/test_recorded.py).

It uses two non-public attributes of aiohttp, and only with releases that were tested.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, NamedTuple, cast

import aiohttp
from aiohttp import hdrs, web
from aiohttp.web_urldispatcher import MatchInfoError, PlainResource, UrlMappingMatchInfo

from mataserver.http.protocol import CompleteResponse, adjust_headers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mataserver.http.routing import RouteTable

    Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

MIN_AIOHTTP, BELOW_AIOHTTP = (3, 11), (3, 15)
"""The tested releases of aiohttp: from, and below."""


class ResolvedRoute(NamedTuple):
    """The resolution of a path, and its handler wrapped in the middlewares."""

    found: UrlMappingMatchInfo
    handler: Answer

    def match(self, request: web.Request) -> None:
        """Let this be the resolution of a request."""
        request._match_info = self.found  # noqa: SLF001


def is_supported(version: str = aiohttp.__version__) -> bool:
    """Whether the fast path was tested with a release of aiohttp."""
    parts = re.match(r"(\d+)\.(\d+)", version)
    return parts is not None and MIN_AIOHTTP <= (int(parts[1]), int(parts[2])) < BELOW_AIOHTTP


def install(server: web.Server, application: web.Application, table: RouteTable) -> None:
    """Install the fast path in the server of a started application."""
    server.request_handler = _FastDispatcher(server.request_handler, application, table)


class _FastDispatcher:
    """Dispatches a request; ``fallback`` is aiohttp's path."""

    def __init__(self, fallback: Answer, application: web.Application, table: RouteTable) -> None:
        self._fallback = fallback
        self._table = table
        self._claimed = wrap(MatchInfoError(web.HTTPNotFound()), application)
        self._has_signals = list(application.on_response_prepare) != [adjust_headers]
        self._resolved: dict[tuple[str, str], ResolvedRoute] = {}
        for route in table.resolved_routes():
            if isinstance(route.resource, PlainResource):
                path = route.method, route.resource.canonical
                self._resolved.setdefault(path, wrap(UrlMappingMatchInfo({}, route), application))

    async def __call__(self, base: web.BaseRequest) -> web.StreamResponse:
        request = cast("web.Request", base)
        resolved = self._resolved.get((request.method, request.rel_url.raw_path))
        if (
            resolved is None
            and self._table.claims
            and self._table.claiming_handler(request) is not None
        ):
            resolved = self._claimed
        if resolved is None or hdrs.EXPECT in request.headers:
            return await self._fallback(request)
        resolved.match(request)
        response = await resolved.handler(request)
        if isinstance(response, CompleteResponse) and not self._has_signals:
            await response.send_direct(request)
        return response


def wrap(found: UrlMappingMatchInfo, application: web.Application) -> ResolvedRoute:
    """Return a resolution with its handler, wrapped in an application's middlewares."""
    found.add_app(application)
    found.freeze()
    handler = found.handler
    for middleware in reversed(application.middlewares):
        handler = functools.partial(middleware, handler=handler)
    return ResolvedRoute(found, cast("Answer", handler))
