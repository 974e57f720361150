"""Reloading of the configuration at run time: models, and plugins that support it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

import msgspec

from mataserver.errors import MataError
from mataserver.library.configured import ConfiguredModels
from mataserver.plugin_ends import ends_as_errors
from mataserver.plugins import check_settings, settle_auth_mode
from mataserver.serving import engine_set

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from mataserver.app.server import ComposedServer
    from mataserver.config import SetBy, Settings
    from mataserver.plugins import Plugin

log = logging.getLogger("mataserver")


class Reload:
    """Reloads the configuration; ``load`` reads the settings, with origins, as at the start."""

    def __init__(
        self,
        composed: ComposedServer,
        load: Callable[[], tuple[Settings, Mapping[str, SetBy] | None]],
    ) -> None:
        self._environ = composed.environ
        self._catalog = composed.catalog
        self._pool = composed.pool
        self._hosting = composed.hosting
        self._maintenance = composed.maintenance
        self._load = load
        self._lock = asyncio.Lock()

    async def run(self) -> None:
        """Read and apply the configuration; log an invalid one and change nothing."""
        async with self._lock:
            try:
                read = self._with_auth_mode(*await asyncio.to_thread(self._load))
                check_settings(read, self._catalog.plugins)
                settings = self._merge_reloadable(read)
                ConfiguredModels(self._catalog, settings.models).check()
                engine_set.check(settings, self._catalog.plugins)
                apply = self._hosting.reconfigure(settings)
            except MataError as error:
                log.error("the configuration was not applied: %s", error.told)  # noqa: TRY400
                return
            self._warn_restart_needed(read, settings)
            await self._apply(settings, apply)

    def _with_auth_mode(self, read: Settings, set_by: Mapping[str, SetBy] | None) -> Settings:
        """Return the settings with the ``auth_mode`` of the next start, to tell if it changes."""
        plugins, silent = self._catalog.plugins, lambda _: None
        return settle_auth_mode(read, set_by, plugins, self._environ, silent, _refusal_logged)[0]

    def _merge_reloadable(self, read: Settings) -> Settings:
        """Return the current settings, with the reloadable parts replaced."""
        old = self._catalog.settings
        reloadable = self._hosting.reconfigurable_sections
        plugins = {name: each for name, each in old.plugins.items() if name not in reloadable}
        plugins |= {name: each for name, each in read.plugins.items() if name in reloadable}
        return msgspec.structs.replace(old, models=read.models, plugins=plugins)

    def _warn_restart_needed(self, read: Settings, settings: Settings) -> None:
        names = [
            name
            for name in read.__struct_fields__
            if name != "plugins" and getattr(read, name) != getattr(settings, name)
        ]
        now, then = settings.plugins, read.plugins
        sections = sorted(now.keys() | then.keys())
        names += [f"plugins.{name}" for name in sections if now.get(name) != then.get(name)]
        if names:
            log.warning("restart the server to change %s", ", ".join(names))

    async def _apply(self, settings: Settings, apply: Callable[[], set[str]]) -> None:
        old = self._catalog.settings
        names = [setting.model for setting in (*old.models, *settings.models)]
        changed = {name for name in names if old.model(name) != settings.model(name)}
        self._catalog.reconfigure(settings)
        self._maintenance.retry_configured()
        kinds = {"models": changed, "plugins": apply()}
        found = (f"{kind}: {', '.join(sorted(names))}" for kind, names in kinds.items() if names)
        log.info("the configuration was read again; changed %s", "; ".join(found) or "nothing")
        await asyncio.gather(*(self._pool.unload(name, None, "changed") for name in changed))
        self._maintenance.request_reload(changed)


@contextlib.contextmanager
def _refusal_logged(plugin: Plugin) -> Iterator[None]:
    """Log that a plugin's ``auth_mode`` refuses what was read; the plugin stays in use."""
    said = "the next start: auth_mode() of the plugin %s refuses the configuration: %s"
    try:
        with ends_as_errors():
            yield
    except MataError as error:
        log.error(said, plugin.name, error.told)  # noqa: TRY400
    except Exception as error:
        log.exception(said, plugin.name, type(error).__name__)
