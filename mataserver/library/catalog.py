"""The catalogue: the registered models, what serves them, and how they come and go."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from mataserver.errors import Conflict
from mataserver.library import defaults, removal, weights
from mataserver.library.intake import Intake
from mataserver.library.plans import ModelPlans
from mataserver.library.registered import RegisteredModels

if TYPE_CHECKING:
    from mataserver.config import Settings
    from mataserver.library.registry import Registry
    from mataserver.plugins import Plugins

TRACKED = ("detect", "track")
"""A registered task and the other one that its model may serve in a session."""


class Memory(Protocol):
    """Where models are that a catalogue forgets: the model pool."""

    def count_holds(self, name: str) -> int:
        """Return how many hold a model beyond a request."""
        ...

    def loaded(self) -> list[tuple[str, str]]:
        """Return name and task of every model in memory."""
        ...

    def unpin(self, name: str) -> bool:
        """Let a model be evicted again."""
        ...

    async def unload(self, name: str, task: str | None = None, reason: str = "stopped") -> bool:
        """Unload a model after its active inferences."""
        ...


class Catalog:
    """The models of one server or of one command."""

    def __init__(self, settings: Settings, registry: Registry, plugins: Plugins) -> None:
        self.settings = settings
        self.registry = registry
        self.plugins = plugins
        models = self._models = RegisteredModels(registry)
        self._plans = ModelPlans(settings, models, plugins)
        self._intake = Intake(settings, models, plugins, self._plans)
        self._grown = plugins.grown
        self.entries, self.entry, self.plan = models.entries, models.entry, self._plans.get
        self.pull, self.convert = self._intake.pull, self._intake.convert
        self.add_local, self.match = self._intake.add_local, self._intake.match

    def serves(self, name: str, task: str) -> bool:
        """Whether an installed backend serves a registered model for ``task``."""
        return self.plugins.offer(weights.files(name, self.entry(name)), task) is not None

    async def remove(self, name: str, pool: Memory) -> None:
        """Forget a model and unload it after its active inferences; its weights stay on the disk.

        Raises ``NotFound``, and ``Conflict`` for a model that is being pulled, that the
        configuration names, or that somebody holds.
        """
        if name not in self.entries():
            raise self._models.missing(name)
        if any(setting.model == name for setting in self.settings.models):
            raise Conflict(f"{name} is a model of the configuration: it cannot be removed")
        holders = pool.count_holds(name)
        if holders:
            raise Conflict(f"{name} is held: sessions, cameras or plugins use it ({holders})")
        with self._intake.pulls.begun(name, None):
            await asyncio.to_thread(removal.remove, name, self.registry)
            self._plans.clear()
            pool.unpin(name)
            await pool.unload(name, None, "removed")

    def add_defaults(self) -> list[str]:
        """Register the defaults that are installed: ``defaults.add_defaults``."""
        return defaults.add_defaults(self.settings, self.registry, self.plugins)

    def reconfigure(self, settings: Settings) -> None:
        """Serve the models as other settings say, from the next request on."""
        self.settings = self._intake.settings = settings
        self._plans.reconfigure(settings)

    async def reconcile(self, pool: Memory) -> None:
        """Unload what is no longer registered, or for another task; take in new plugins.

        What is registered with other files is replaced by its next request.
        """
        await asyncio.to_thread(self.plugins.refresh)
        if self.plugins.grown != self._grown:
            self._grown = self.plugins.grown
            self._plans.clear()
            self.add_defaults()
        entries = self.entries()
        for name, task in pool.loaded():
            entry = entries.get(name)
            if entry is None or (entry.task != task and (entry.task, task) != TRACKED):
                self._plans.clear()
                await pool.unload(name, task, "removed")
