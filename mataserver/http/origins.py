"""Cross-origin requests: which other web pages may read the server's answers.

The Fetch standard's CORS protocol (https://fetch.spec.whatwg.org/#http-cors-protocol). Scripts set
the key's header themselves, so no cookies ("credentials") are involved. Disallowed requests are
served without these headers: the browser then withholds the answer from the page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import hdrs, web

from mataserver.http.auth import FOREIGN_ORIGIN, Forbidden
from mataserver.http.browsers import ANY, is_foreign
from mataserver.http.proxies import host, scheme

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aiohttp.typedefs import Handler

    Finish = Callable[[web.Request, web.Response], web.StreamResponse]

METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"
HEADERS = "Authorization, *"
"""The star covers every header but ``Authorization``."""

MAX_AGE = "600"
"""Seconds for which a browser caches the preflight's result."""


def allow_origins(application: web.Application, origins: Sequence[str], finish: Finish) -> None:
    """Let pages of ``origins`` (exact, or "*" for all) read every answer, including errors.

    ``finish`` counts the answer to a preflight request, and adds the headers of all answers.
    """
    if not origins:
        return
    rules = _CorsRules(origins, finish)
    application.middlewares.insert(0, rules.preflight)
    application.on_response_prepare.append(rules.add_headers)


def check(request: web.Request, allowed: Sequence[str], *, trust_proxy: bool) -> None:
    """Raise ``Forbidden`` for a request from a web page whose origin is not ``allowed``.

    For bodies that browsers send without a preflight: credentials that the browser adds itself, as
    for Basic, would be enough.
    """
    address = scheme(request, trusted=trust_proxy), host(request, trusted=trust_proxy)
    if is_foreign(request.headers, *address, allowed):
        raise Forbidden(FOREIGN_ORIGIN)


class _CorsRules:
    def __init__(self, origins: Sequence[str], finish: Finish) -> None:
        self._allowed = frozenset(origins)
        self._finish = finish

    def _allowed_origin(self, request: web.Request) -> str | None:
        """Return the origin to allow: the request's own or "*", or None."""
        if ANY in self._allowed:
            return ANY
        origin = request.headers.get(hdrs.ORIGIN)
        return origin if origin in self._allowed else None

    @web.middleware
    async def preflight(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer a preflight request, which carries no key."""
        asks = hdrs.ORIGIN in request.headers and (
            hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers
        )
        if request.method != hdrs.METH_OPTIONS or not asks or self._allowed_origin(request) is None:
            return await handler(request)
        headers = {
            hdrs.ACCESS_CONTROL_ALLOW_METHODS: METHODS,
            hdrs.ACCESS_CONTROL_ALLOW_HEADERS: HEADERS,
            hdrs.ACCESS_CONTROL_MAX_AGE: MAX_AGE,
        }
        return self._finish(request, web.Response(status=204, headers=headers))

    async def add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        """Set the headers that say which pages may read the answer, just before they are sent."""
        named = self._allowed_origin(request)
        if named != ANY:
            others = response.headers.get(hdrs.VARY)  # of a file that is sent compressed to some
            response.headers[hdrs.VARY] = f"{others}, {hdrs.ORIGIN}" if others else hdrs.ORIGIN
        if named is not None:
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = named
            response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = ANY
