"""The pages for people that services bring: what a navigation shows."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from msgspec import Struct

from mataserver.http import auth, codec
from mataserver.http.routing import Body, Route
from mataserver.principals import ANYBODY

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from aiohttp import web

    from mataserver.http.routing import State
    from mataserver.service import Page, Service

log = logging.getLogger("mataserver.http")


class PageInfo(Struct):
    """One page; ``icon`` is one character, or empty, ``group`` where the navigation has it."""

    title: str
    path: str
    icon: str
    plugin: str
    group: str


def routes(state: State) -> list[Route]:
    """Return this module's routes."""
    return [
        Route("GET", "/v1/pages", _Pages(state).list, "The pages that plugins bring", "plugins",
              response=(Body(codec.JSON, list[PageInfo]),), needs=ANYBODY),
    ]  # fmt: skip


def pages_of(services: Iterable[tuple[str, Service]]) -> Iterator[tuple[str, Page]]:
    """Yield the pages that services bring, each with its plugin's name."""
    for plugin, service in services:
        pages = getattr(service, "pages", None)
        if pages is None:
            continue
        try:
            yield from [(plugin, page) for page in pages()]
        except Exception:
            log.exception("pages() of the plugin %s failed", plugin)


class _Pages:
    def __init__(self, state: State) -> None:
        self._state = state

    async def list(self, request: web.Request) -> web.Response:
        principal = auth.caller(request)
        return codec.respond(
            [
                PageInfo(page.title, page.path, page.icon, plugin, page.group)
                for plugin, page in pages_of(self._state.services)
                if principal.may(page.needs)
            ]
        )
