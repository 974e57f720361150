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

from mataserver.http.protocol import Whole, unsign

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mataserver.http.routing import Table

    Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

FIRST, BEFORE = (3, 11), (3, 15)
"""The tested releases of aiohttp: from, and below."""


class _Way(NamedTuple):
    """The resolution of a path, and its handler wrapped in the middlewares."""

    found: UrlMappingMatchInfo
    handler: Answer


def known(version: str = aiohttp.__version__) -> bool:
    """Whether the fast path was tested with a release of aiohttp."""
    parts = re.match(r"(\d+)\.(\d+)", version)
    return parts is not None and FIRST <= (int(parts[1]), int(parts[2])) < BEFORE


def shorten(server: web.Server, application: web.Application, table: Table) -> None:
    """Install the fast path in the server of a started application."""
    server.request_handler = _Shortcut(server.request_handler, application, table)


class _Shortcut:
    """Dispatches a request; ``long`` is aiohttp's path."""

    def __init__(self, long: Answer, application: web.Application, table: Table) -> None:
        self._long = long
        self._table = table
        self._claimed = _way(MatchInfoError(web.HTTPNotFound()), application)
        self._marked = list(application.on_response_prepare) != [unsign]
        self._ways: dict[tuple[str, str], _Way] = {}
        for route in table.found():
            if isinstance(route.resource, PlainResource):
                path = route.method, route.resource.canonical
                self._ways.setdefault(path, _way(UrlMappingMatchInfo({}, route), application))

    async def __call__(self, base: web.BaseRequest) -> web.StreamResponse:
        request = cast("web.Request", base)
        way = self._ways.get((request.method, request.rel_url.raw_path))
        if way is None and self._table.claims and self._table.claimed(request) is not None:
            way = self._claimed
        if way is None or hdrs.EXPECT in request.headers:
            return await self._long(request)
        request._match_info = way.found  # noqa: SLF001
        response = await way.handler(request)
        if isinstance(response, Whole) and not self._marked:
            await response.leave(request)
        return response


def _way(found: UrlMappingMatchInfo, application: web.Application) -> _Way:
    found.add_app(application)
    found.freeze()
    handler = found.handler
    for middleware in reversed(application.middlewares):
        handler = functools.partial(middleware, handler=handler)
    return _Way(found, cast("Answer", handler))
