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
    from collections.abc import Callable
    from pathlib import Path

    from mataserver.config import Settings
    from mataserver.contract.backend import ModelFiles
    from mataserver.library.intake import Pulled
    from mataserver.library.plan import ModelPlan
    from mataserver.library.registry import Entry, Registry
    from mataserver.plugins import Plugins
    from mataserver.sources import Step

TRACKED = ("detect", "track")
"""A registered task and the other one that its model may serve in a session."""


class Memory(Protocol):
    """Where models are that a catalogue forgets: the model pool."""

    def held(self, name: str) -> int:
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
        self._models = RegisteredModels(registry)
        self._plans = ModelPlans(settings, self._models, plugins)
        self._intake = Intake(settings, self._models, plugins, self._plans)
        self._grown = plugins.grown

    # looking

    def entries(self) -> dict[str, Entry]:
        """Return the registered models; of a registry that got corrupt, the last good copy."""
        return self._models.entries()

    def entry(self, name: str) -> Entry:
        """Return one registered model. Raises ``NotFound``, also when its files are gone."""
        return self._models.entry(name)

    def plan(self, name: str, task: str | None = None) -> ModelPlan:
        """Return what it takes to load a model, for its own task or another.

        Raises ``NotFound`` for a model that is not registered or whose files are gone,
        ``Unavailable`` for a task that nothing serves.
        """
        return self._plans.get(name, task)

    def serves(self, name: str, task: str) -> bool:
        """Whether an installed backend serves a registered model for ``task``."""
        return self.plugins.offer(weights.files(name, self.entry(name)), task) is not None

    # coming and going

    async def pull(
        self,
        name: str,
        task: str,
        on_step: Callable[[Step], None] | None = None,
        *,
        allow_pip: bool = True,
    ) -> Pulled:
        """Download or install a model and register it: ``Intake.pull``."""
        return await self._intake.pull(name, task, on_step, allow_pip=allow_pip)

    def add_local(self, path: Path, task: str, name: str | None = None) -> Pulled:
        """Register a local directory or file.

        Raises ``BadRequest`` when nothing serves it, ``Conflict`` when the name is in use.
        """
        return self._intake.add_local(path, task, name)

    def convert(self, name: str, task: str, directory: Path, path: Path | None = None) -> Pulled:
        """Register a model to be served from ``directory``: ``Intake.convert``."""
        return self._intake.convert(name, task, directory, path)

    def match(self, files: ModelFiles, task: str) -> None:
        """Raise ``BadRequest`` that says why nothing serves a model for a task, if nothing does."""
        self._intake.match(files, task)

    async def remove(self, name: str, pool: Memory) -> None:
        """Forget a model and unload it after its active inferences; its weights stay on the disk.

        Raises ``NotFound``, and ``Conflict`` for a model that is being pulled, that the
        configuration names, or that somebody holds.
        """
        if name not in self.entries():
            raise self._models.missing(name)
        if any(setting.model == name for setting in self.settings.models):
            raise Conflict(f"{name} is a model of the configuration: it cannot be removed")
        holders = pool.held(name)
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
