"""A configuration that is read again while the server runs: its models and its cameras."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import msgspec

from mataserver.errors import MataError
from mataserver.library.configured import Configured

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver.cameras.roster import Roster
    from mataserver.config import Settings
    from mataserver.library.catalog import Catalog
    from mataserver.serving.pool import ModelPool
    from mataserver.upkeep import Upkeep

RELOADED = ("models", "cameras")

log = logging.getLogger("mataserver")


class Reload:
    """``load`` reads the settings as the start of the server did."""

    def __init__(
        self,
        catalog: Catalog,
        pool: ModelPool,
        cameras: Roster,
        upkeep: Upkeep,
        load: Callable[[], Settings],
    ) -> None:
        self._catalog = catalog
        self._pool = pool
        self._cameras = cameras
        self._upkeep = upkeep
        self._load = load
        self._lock = asyncio.Lock()

    async def run(self) -> None:
        """Read the configuration and follow it; one that is wrong is told and changes nothing."""
        async with self._lock:
            try:
                read = await asyncio.to_thread(self._load)
                changed = {name: getattr(read, name) for name in RELOADED}
                settings = msgspec.structs.replace(self._catalog.settings, **changed)
                Configured(self._catalog, settings.models).check()
                self._cameras.check_settings(settings)
            except MataError as error:
                log.error("the configuration stays as it was: %s", error.told)  # noqa: TRY400
                return
            self._tell(read)
            await self._follow(settings)

    def _tell(self, read: Settings) -> None:
        """Name the settings that changed and that only a start takes in."""
        old = self._catalog.settings
        names = [
            name
            for name in read.__struct_fields__
            if name not in RELOADED and getattr(read, name) != getattr(old, name)
        ]
        if names:
            log.warning("restart the server to change %s", ", ".join(names))

    async def _follow(self, settings: Settings) -> None:
        old = self._catalog.settings
        names = [setting.model for setting in (*old.models, *settings.models)]
        changed = {name for name in names if old.model(name) != settings.model(name)}
        self._catalog.reconfigure(settings)
        self._upkeep.add_again()
        self._cameras.change(settings)
        told = ", ".join(sorted(changed)) or "none"
        log.info("the configuration was read again; changed models: %s", told)
        await asyncio.gather(*(self._pool.unload(name, None, "changed") for name in changed))
        self._upkeep.load_anew(changed)
