"""The web pages of services, for a navigation."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from msgspec import Struct

from mataserver.contract.routes import Page
from mataserver.http import auth, codec
from mataserver.http.readiness import call_services
from mataserver.http.request_credentials import check_query
from mataserver.http.routing import Body, Route, StatelessService
from mataserver.principals import ANYBODY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from aiohttp import web

    from mataserver.contract.service import Service


log = logging.getLogger("mataserver.http")


class PageInfo(Struct):
    """One page; ``icon`` is one character, or empty, ``group`` its section of the navigation."""

    title: str
    path: str
    icon: str
    plugin: str
    group: str


class ServedPages:
    """The pages of services. ``serves`` says whether an address has a route.

    A page that no route serves would be a link to a 404: it is left out, which is logged once.
    """

    def __init__(
        self, services: Sequence[tuple[str, Service]], serves: Callable[[str], bool]
    ) -> None:
        self._services, self._serves = services, serves
        self._told: set[tuple[str, str]] = set()

    def found(self) -> Iterator[tuple[str, Page]]:
        """Yield the pages, each with its plugin's name."""
        for plugin, pages in call_services(self._services, "pages", _validate_pages):
            for page in pages or ():
                if self._serves(page.path):
                    yield plugin, page
                elif (plugin, page.path) not in self._told:
                    self._told.add((plugin, page.path))
                    log.warning(
                        "the page %s of the plugin %s is not listed: no route serves it",
                        page.path, plugin,
                    )  # fmt: skip


def _validate_pages(pages: Iterable[object]) -> tuple[Page, ...]:
    """Return a service's pages. Raises ``TypeError`` for an object of another type."""
    given = tuple(pages)
    for page in given:
        if not isinstance(page, Page):
            raise TypeError(f"it gave a {type(page).__name__}, not a mataserver.Page")
    return tuple(page for page in given if isinstance(page, Page))


class PagesService(StatelessService):
    """The service of the list of pages."""

    def __init__(self, pages: ServedPages) -> None:
        self._pages = pages

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("GET", "/v1/pages", self._list, "The pages that plugins bring", "plugins",
                  response=(Body(codec.JSON, list[PageInfo]),), errors=(422,), needs=ANYBODY),
        ]  # fmt: skip

    async def _list(self, request: web.Request) -> web.Response:
        check_query(request, ())
        principal = auth.caller(request)
        return codec.respond(
            [
                PageInfo(page.title, page.path, page.icon, plugin, page.group)
                for plugin, page in self._pages.found()
                if principal.may(page.needs)
            ]
        )
