"""The short way of a request to its handler, and of an answer to the socket.

Between its parser and a handler aiohttp looks for the route, makes what tells of it and builds the
chain of middlewares; behind the handler an answer takes steps that serve streams, compression and
HTTP/1.0. A path without variables is known beforehand, what a service claims is looked for nowhere
else, and a whole answer to a plain request needs none of those steps. Everything else goes
aiohttp's way. Both ways give the same bytes: the recorded answers are asked on both
(tests/test_recorded.py).

This knows two of aiohttp's attributes that are not public, and is used with the releases only that
it was tried with.
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
"""The releases of aiohttp whose insides are known."""


class _Way(NamedTuple):
    """What aiohttp would find for a path, and its handler within the middlewares."""

    found: UrlMappingMatchInfo
    handler: Answer


def known(version: str = aiohttp.__version__) -> bool:
    """Whether a release of aiohttp is one that the short way was tried with."""
    parts = re.match(r"(\d+)\.(\d+)", version)
    return parts is not None and FIRST <= (int(parts[1]), int(parts[2])) < BEFORE


def shorten(server: web.Server, application: web.Application, table: Table) -> None:
    """Have a server of an application, which has begun, take the short way where there is one."""
    server.request_handler = _Shortcut(server.request_handler, application, table)


class _Shortcut:
    """Takes a request to its handler; ``long`` is aiohttp's way."""

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
