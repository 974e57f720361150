"""The settings, for whoever runs the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mataserver.http import codec, disclosure
from mataserver.http.disclosure import SettingInfo
from mataserver.http.routing import Body, Handlers, Route

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from aiohttp import web

    from mataserver.config import SetBy, Settings
    from mataserver.plugins import Plugins


class SettingsService(Handlers):
    """The service of the settings: those that count now, which a reload may have changed."""

    def __init__(
        self, settings: Callable[[], Settings], set_by: Mapping[str, SetBy], plugins: Plugins
    ) -> None:
        self._settings = settings
        self._set_by = set_by
        self._plugins = plugins

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("GET", "/v1/settings", self._every, "Every setting, and where it came from",
                  "server", response=(Body(codec.JSON, list[SettingInfo]),), needs="admin"),
        ]  # fmt: skip

    async def _every(self, _request: web.Request) -> web.Response:
        return codec.respond(disclosure.every(self._settings(), self._set_by, self._plugins))
