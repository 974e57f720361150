"""The settings, for whoever runs the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mataserver import disclosure
from mataserver.disclosure import SettingInfo
from mataserver.http import codec
from mataserver.http.routing import Body, Route

if TYPE_CHECKING:
    from aiohttp import web

    from mataserver.http.routing import State


def routes(state: State) -> list[Route]:
    """Return this module's routes."""

    async def every(_request: web.Request) -> web.Response:
        return codec.respond(disclosure.every(state.settings, state.set_by, state.plugins))

    return [
        Route("GET", "/v1/settings", every, "Every setting, and where it came from", "server",
              response=(Body(codec.JSON, list[SettingInfo]),), needs="admin"),
    ]  # fmt: skip
