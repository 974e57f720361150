"""The OpenAPI document and its viewers, served from package files: no network needed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from mataserver.http import codec, proxies
from mataserver.http.files import PackageFiles
from mataserver.http.routing import Body, Route, StatelessService

if TYPE_CHECKING:
    from collections.abc import Callable

_PAGES = {"docs": "swagger.html", "redoc": "redoc.html"}
_POLICY = "default-src 'self' 'unsafe-inline' data: blob:; frame-ancestors 'none'"
"""Content-Security-Policy: the viewers have scripts and styles within their pages."""


class DocsService(StatelessService):
    """Serves the OpenAPI document, built by ``document``, and the pages."""

    def __init__(self, document: Callable[[], bytes], *, trust_proxy: bool) -> None:
        self._document = document
        self._trust_proxy = trust_proxy
        self._files = PackageFiles("mataserver.http", "static", _POLICY)

    def routes(self) -> list[Route]:
        """Return the routes."""
        html = (Body("text/html"),)
        return [
            Route("GET", "/openapi.json", self._openapi, "This document", "docs",
                  response=(Body(codec.JSON, dict[str, Any]),), public=True),
            Route("GET", "/docs", self._page, "Swagger UI", "docs", response=html, public=True),
            Route("GET", "/redoc", self._page, "Redoc", "docs", response=html, public=True),
            Route("GET", "/static/{name}", self._asset, "A file of these pages", "docs",
                  public=True, documented=False),
        ]  # fmt: skip

    async def _openapi(self, request: web.Request) -> web.Response:
        prefix = proxies.public_address(request, trusted=self._trust_proxy).prefix
        # Building it takes as long as several inferences, so it must not block the event loop.
        body = await asyncio.to_thread(self._document)
        if prefix:  # without it the paths, and a key, go to whatever is at the proxy's root
            servers = msgspec.json.encode({"servers": [{"url": prefix}]})
            body = body[:-1] + b"," + servers[1:]
        return web.Response(body=body, content_type=codec.JSON)

    async def _page(self, request: web.Request) -> web.Response:
        return await self._files.respond(request, _PAGES[request.path.strip("/")])

    async def _asset(self, request: web.Request) -> web.Response:
        return await self._files.respond(request, request.match_info["name"])
