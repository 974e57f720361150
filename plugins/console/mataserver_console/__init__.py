"""The console: a page for trying models and operating the server, over the public API alone.

Its files are package data, ES modules without a build step. The page stands at ``/``; what it
loads lies below ``/console/``, so that its addresses stay relative behind a proxy with a prefix.
"""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING, Self

from mataserver import Body, Page, Route, hookimpl
from mataserver_console.modules import index

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mataserver import Context

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob:; media-src 'self' blob:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
"""Content-Security-Policy: nothing inline, nothing of another host."""
_INDEX = "/console/"


class Console:
    """The page and its files."""

    def routes(self) -> Iterable[Route]:
        """Return the page at ``/`` and the files below ``/console/``."""
        # Imports aiohttp, which commands that ask the plugins for backends do without.
        from mataserver import static

        web = resources.files(__name__).joinpath("web")
        made = {"index.html": lambda: index(web)}
        for route in static("/console", __name__, "web", policy=POLICY, made=made):
            if route.path != _INDEX:
                yield route
            elif route.method == "GET":  # a document's GET answers HEAD too
                html = (Body("text/html"),)
                yield Route(
                    "GET", "/", route.handler, "The console", "docs", response=html, public=True
                )

    def pages(self) -> Iterable[Page]:
        """Return the page, which the server's start and its link name."""
        return [Page("Console", "/")]

    async def __aenter__(self) -> Self:
        """Start: there is nothing to."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop: there is nothing to."""


@hookimpl
def service(ctx: Context) -> Console:  # noqa: ARG001 - the hook's signature
    """Return the service."""
    return Console()
