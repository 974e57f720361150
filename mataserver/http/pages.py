"""The pages for people that services bring: what a navigation shows."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from msgspec import Struct

from mataserver.http import auth, codec
from mataserver.http.routing import Body, Route
from mataserver.principals import ANYBODY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aiohttp import web

    from mataserver.http.routing import State
    from mataserver.service import Page

log = logging.getLogger("mataserver.http")


class PageInfo(Struct):
    """One page; ``icon`` is one character, or empty."""

    title: str
    path: str
    icon: str
    plugin: str


def routes(state: State) -> list[Route]:
    """Return this module's routes."""
    return [
        Route("GET", "/v1/pages", _Pages(state).list, "The pages that plugins bring", "plugins",
              response=(Body(codec.JSON, list[PageInfo]),), needs=ANYBODY),
    ]  # fmt: skip


class _Pages:
    def __init__(self, state: State) -> None:
        self._state = state

    async def list(self, request: web.Request) -> web.Response:
        principal = auth.caller(request)
        return codec.respond(
            [
                PageInfo(page.title, page.path, page.icon, plugin)
                for plugin, page in self._pages()
                if principal.may(page.needs)
            ]
        )

    def _pages(self) -> Iterator[tuple[str, Page]]:
        for plugin, service in self._state.services:
            pages = getattr(service, "pages", None)
            if pages is None:
                continue
            try:
                yield from [(plugin, page) for page in pages()]
            except Exception:
                log.exception("pages() of the plugin %s failed", plugin)
