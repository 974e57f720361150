"""A plugin with a page of its own, for who may change models."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING, Self

from aiohttp import web

from mataserver import Page, Route, hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mataserver import Context

POINT = importlib.metadata.EntryPoint("lab", "guest", "mataserver")


class Lab:
    """Its service."""

    def routes(self) -> Iterable[Route]:
        """Return the page."""
        return [Route("GET", "/lab/", self.page, public=True)]

    def pages(self) -> Iterable[Page]:
        """Return what the navigation shows."""
        return [Page("The lab", "/lab/", "*", needs="models:write", group="operate")]

    async def page(self, _request: web.Request) -> web.Response:
        """Answer with the page."""
        return web.Response(text="Hello from the lab", content_type="text/html")

    async def __aenter__(self) -> Self:
        """Start."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop."""


@hookimpl
def service(ctx: Context) -> Lab:
    """Return the service."""
    return Lab()
