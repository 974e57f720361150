"""Base of the classes that have the routes of the fleet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mataserver_fleet.pages import caller

if TYPE_CHECKING:
    from aiohttp import web

    from mataserver import Context
    from mataserver_fleet.components import Components


class Handlers:
    """What all of them have: the service's context and parts, and the log of who did what."""

    def __init__(self, ctx: Context, components: Components) -> None:
        self._ctx = ctx
        self._components = components

    def _note(self, request: web.Request, what: str, name: str) -> None:
        """Log who did something to what has a name."""
        who = caller(request)
        self._ctx.log.info("%s (%s) %s %s", who.name, who.id, what, name)
