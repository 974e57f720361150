"""Background maintenance of a server: follow the registry, preload, retry failures."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mataserver.errors import MataError
from mataserver.frontends.directory import HEARTBEAT_SECONDS, SILENCE_SECONDS
from mataserver.library.configured import ConfiguredModels
from mataserver.serving.loading import LoadCancelledError

if TYPE_CHECKING:
    from mataserver.library.catalog import Catalog
    from mataserver.serving.pool import ModelPool

log = logging.getLogger("mataserver")


@dataclass(frozen=True, slots=True)
class MaintenanceIntervals:
    """Intervals in seconds of registry checks and of retries.

    ``beat`` and ``silence`` are those of front-ends: heartbeat interval and timeout.
    """

    reconcile: float = 2.0
    retry: float = 30.0
    beat: float = HEARTBEAT_SECONDS
    silence: float = SILENCE_SECONDS


class Maintenance:
    """The background work of one server."""

    def __init__(
        self,
        catalog: Catalog,
        pool: ModelPool,
        not_ready: dict[str, str],
        pace: MaintenanceIntervals,
    ) -> None:
        self._catalog = catalog
        self._pool = pool
        self._not_ready = not_ready
        self._pace = pace
        self._to_reload: set[str] = set()
        self._wakeup = asyncio.Event()

    def add_configured(self) -> None:
        """Register the configured models; those that cannot be served keep ``/ready`` at 503.

        Raises ``InvalidParams`` for a task or params that a configured model does not support.
        """
        catalog, waiting = self._catalog, self._not_ready
        try:
            ConfiguredModels(catalog).add()
        except MataError as error:
            log.error(error.told)  # noqa: TRY400 - a message for the operator, not a bug
            waiting["configuration"] = error.detail
        else:
            waiting.pop("configuration", None)
        ConfiguredModels(catalog).check()

    async def reconcile(self) -> None:
        """Periodically discover new plugins, and unload what is no longer registered."""
        while True:
            await asyncio.sleep(self._pace.reconcile)
            try:
                await self._catalog.refresh()
                for name, task in self._catalog.outdated(self._pool.loaded()):
                    await self._pool.unload(name, task, "removed")
            except Exception:
                log.exception("the registry could not be reloaded")

    async def preload(self) -> None:
        """Load the preloaded models; retry failed or missing ones forever."""
        wanted = self._preloaded_names()
        while True:
            failed = [name for name in wanted if not await self._load(name)]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pace.retry):
                    await self._wakeup.wait()
            self._wakeup.clear()
            if self._not_ready:
                self.retry_configured()
            retried, self._to_reload = {*failed, *self._to_reload}, set()
            wanted = [
                name
                for name in self._preloaded_names()
                if name in retried or self._has_failed(name)
            ]

    def request_reload(self, names: set[str]) -> None:
        """Reload those of the models that are to be preloaded."""
        self._to_reload |= names
        self._wakeup.set()

    def retry_configured(self) -> None:
        """Register models that have become available; validates their params, too."""
        try:
            self.add_configured()
        except MataError as error:
            log.error(error.told)  # noqa: TRY400 - a message for the operator, not a bug
            self._not_ready["configuration"] = error.detail

    async def _load(self, name: str) -> bool:
        try:
            async with self._pool.hold(self._catalog.plan(name)):
                return True
        except LoadCancelledError:
            return True  # whoever cancelled it does not want it tried again
        except MataError as error:
            log.error("could not preload %s: %s", name, error.told)  # noqa: TRY400
            return False

    def _preloaded_names(self) -> list[str]:
        return [setting.model for setting in self._catalog.settings.models if setting.preload]

    def _has_failed(self, name: str) -> bool:
        """Whether a registered model has failed since it was loaded."""
        entry = self._catalog.entries().get(name)
        return entry is not None and self._pool.status(name, entry.task).error is not None
