"""The catalogue: the registered models, their backends, registration and removal."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from mataserver.errors import Conflict
from mataserver.library import defaults, removal, weights
from mataserver.library.plans import ModelPlans
from mataserver.library.registered import RegisteredModels
from mataserver.library.registrar import ModelRegistrar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from mataserver.config import Settings
    from mataserver.library.registry import Registry
    from mataserver.plugins import Plugins

DETECT_TO_TRACK = ("detect", "track")
"""A registered task and the other one that its model may serve in a session."""


class Catalog:
    """The models of one server or of one command."""

    def __init__(self, settings: Settings, registry: Registry, plugins: Plugins) -> None:
        self.settings = settings
        self.registry = registry
        self.plugins = plugins
        models = self._models = RegisteredModels(registry)
        self._plans = ModelPlans(settings, models, plugins)
        self._registrar = ModelRegistrar(settings, models, plugins, self._plans)
        self._generation = plugins.generation
        self.entries, self.entry, self.plan = models.entries, models.entry, self._plans.get
        self.pull, self.convert = self._registrar.pull, self._registrar.convert
        self.add_local, self.match = self._registrar.add_local, self._registrar.match

    def serves(self, name: str, task: str) -> bool:
        """Whether an installed backend serves a registered model for ``task``."""
        return self.plugins.find_backend(weights.files(name, self.entry(name)), task) is not None

    @contextlib.asynccontextmanager
    async def removing(self, name: str, holders: int) -> AsyncIterator[None]:
        """Unregister a model, which cannot be pulled until the context ends; its weights stay.

        Raises ``NotFound``, and ``Conflict`` for a model that is being pulled, configured, or held
        by ``holders``: sessions, cameras or plugins.
        """
        if name not in self.entries():
            raise self._models.missing(name)
        if any(setting.model == name for setting in self.settings.models):
            raise Conflict(f"{name} is a model of the configuration: it cannot be removed")
        if holders:
            raise Conflict(f"{name} is held: sessions, cameras or plugins use it ({holders})")
        with self._registrar.pulls.register(name, None):
            await self._plans.change(removal.remove, name, self.registry, lambda: self.plugins)
            yield

    def add_defaults(self) -> list[str]:
        """Register the installed default models; see ``defaults.add_defaults``."""
        return defaults.add_defaults(self.settings, self.registry, self.plugins)

    def reconfigure(self, settings: Settings) -> None:
        """Apply other settings to the models, from the next request on."""
        self.settings = self._registrar.settings = settings
        self._plans.reconfigure(settings)

    async def refresh(self) -> None:
        """Discover new plugins, and register their default models: in threads, for disks wait."""
        await asyncio.to_thread(self.plugins.refresh)
        if self.plugins.generation != self._generation:
            self._generation = self.plugins.generation
            await self._plans.change(self.add_defaults)

    def outdated(self, loaded: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """Return which of the loaded models were removed or changed their task, with their tasks.

        A model registered with other files is replaced at its next request.
        """
        found, entries = [], self.entries()
        for name, task in loaded:
            entry = entries.get(name)
            if entry is None or (entry.task != task and (entry.task, task) != DETECT_TO_TRACK):
                found.append((name, task))
        if found:
            self._plans.clear()
        return found
