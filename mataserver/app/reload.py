"""Reloading of the configuration at run time: models, and plugins that support it."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import msgspec

from mataserver.errors import MataError
from mataserver.library.configured import Configured

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver.app.hosting import Hosting
    from mataserver.app.upkeep import Upkeep
    from mataserver.config import Settings
    from mataserver.library.catalog import Catalog
    from mataserver.serving.pool import ModelPool

log = logging.getLogger("mataserver")


class Reload:
    """Reloads the configuration; ``load`` reads the settings as at the start."""

    def __init__(
        self,
        catalog: Catalog,
        pool: ModelPool,
        hosting: Hosting,
        upkeep: Upkeep,
        load: Callable[[], Settings],
    ) -> None:
        self._catalog = catalog
        self._pool = pool
        self._hosting = hosting
        self._upkeep = upkeep
        self._load = load
        self._lock = asyncio.Lock()

    async def run(self) -> None:
        """Read and apply the configuration; log an invalid one and change nothing."""
        async with self._lock:
            try:
                read = await asyncio.to_thread(self._load)
                settings = self._followed(read)
                Configured(self._catalog, settings.models).check()
                apply = self._hosting.reconfigure(settings)
            except MataError as error:
                log.error("the configuration is invalid and was not applied: %s", error.told)  # noqa: TRY400
                return
            self._name_unapplied(read, settings)
            await self._follow(settings, apply)

    def _followed(self, read: Settings) -> Settings:
        """Return the current settings, with the reloadable parts replaced."""
        old = self._catalog.settings
        followed = self._hosting.reconfigured
        plugins = {name: each for name, each in old.plugins.items() if name not in followed}
        plugins |= {name: each for name, each in read.plugins.items() if name in followed}
        return msgspec.structs.replace(old, models=read.models, plugins=plugins)

    def _name_unapplied(self, read: Settings, settings: Settings) -> None:
        """Log changed settings that require a restart."""
        names = [
            name
            for name in read.__struct_fields__
            if getattr(read, name) != getattr(settings, name)
        ]
        if names:
            log.warning("restart the server to change %s", ", ".join(names))

    async def _follow(self, settings: Settings, apply: Callable[[], None]) -> None:
        old = self._catalog.settings
        names = [setting.model for setting in (*old.models, *settings.models)]
        changed = {name for name in names if old.model(name) != settings.model(name)}
        self._catalog.reconfigure(settings)
        self._upkeep.add_again()
        apply()
        told = ", ".join(sorted(changed)) or "none"
        log.info("the configuration was read again; changed models: %s", told)
        await asyncio.gather(*(self._pool.unload(name, None, "changed") for name in changed))
        self._upkeep.load_anew(changed)
