"""Cache of the models' plans: looked up per request, rebuilt when files change."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mataserver import sources
from mataserver.contract.backend import ModelSpec
from mataserver.errors import NotFound, Unavailable
from mataserver.library import weights
from mataserver.library.plan import ModelPlan

if TYPE_CHECKING:
    from mataserver.config import Settings
    from mataserver.contract.backend import ModelFiles
    from mataserver.library.registered import RegisteredModels
    from mataserver.library.registry import Entry
    from mataserver.plugins import Offer, Plugins

FRESH = 0.2
"""Seconds for which a cached plan is used without checking the disk."""

_BASE_BYTES = 256_000_000


@dataclass(slots=True)
class _Known:
    """A plan, the entries of it and its parts, and the time of the last check."""

    entries: dict[str, Entry]
    plan: ModelPlan
    seen: float = 0.0


class ModelPlans:
    """The plans of the registered models."""

    def __init__(self, settings: Settings, models: RegisteredModels, plugins: Plugins) -> None:
        self._settings = settings
        self._models = models
        self._plugins = plugins
        self._known: dict[tuple[str, str | None], _Known] = {}
        self._editions: dict[str, tuple[Entry, str]] = {}

    def clear(self) -> None:
        """Drop every plan: plugins or registrations have changed."""
        self._known.clear()

    def reconfigure(self, settings: Settings) -> None:
        """Apply other settings, dropping every plan."""
        self._settings = settings
        self.clear()

    def get(self, name: str, task: str | None = None) -> ModelPlan:
        """Return the plan for loading a model, for its own task or another.

        Checks the disk a few times a second at most, not for every request. Raises ``NotFound`` for
        a model that is not registered or whose files are gone, ``Unavailable`` for a task that no
        backend serves.
        """
        known = self._known.get((name, task))
        now = time.monotonic()
        if known is not None and now - known.seen < FRESH:
            return known.plan
        entry = self._models.entry(name)
        if known is None or not self._unchanged(known):
            plan = self._make_plan(name, entry, task or entry.task)
            entries = self._models.entries()
            involved = {each: entries[each] for each in plan.names if each in entries}
            known = self._known[name, task] = _Known(involved, plan)
        known.seen = now
        return known.plan

    def _unchanged(self, known: _Known) -> bool:
        """Whether a model and its parts are registered unchanged, with their files present."""
        entries = self._models.entries()
        return all(
            entries.get(name) == entry and weights.present(name, entry)
            for name, entry in known.entries.items()
        )

    def _make_plan(self, name: str, entry: Entry, task: str) -> ModelPlan:
        try:
            files = weights.files(name, entry)
        except sources.StrayLink as error:
            raise Unavailable(f"{name} cannot be served: {error.detail}") from None
        offer = self._plugins.offer(files, task)
        if offer is None:
            reason = self._plugins.refusal(files, task)
            if reason is not None:
                raise Unavailable(f"{name} cannot be served: {reason}")
            raise Unavailable(f"No installed plugin serves {name} for the task {task}")
        offer.check_installed()
        parts = self._parts(offer, files, entry)
        size = weights.size(name, entry) or 0
        settings = self._settings.model(name)
        return ModelPlan(
            spec=ModelSpec(name, task, entry.source, files.path),
            backend=offer.backend,
            plugin=offer.plugin.name,
            family=offer.plugin.family,
            edition=self._edition(name, entry),
            plugin_settings=offer.plugin.settings,
            settings=settings,
            # Parts are loaded once per replica of the whole; their own entries do not count.
            estimate=settings.span.first
            * (
                _BASE_BYTES
                + size
                + sum(part.estimate // part.settings.span.first for part in parts.values())
            ),
            parts=parts,
        )

    def _edition(self, name: str, entry: Entry) -> str:
        """Return the edition of a model's files at the time of this registration.

        Only a registration marks files as complete: a training that writes to the directory later
        must not cause the served model to be replaced.
        """
        known = self._editions.get(name)
        if known is None or known[0] != entry:
            known = self._editions[name] = (entry, weights.edition(name, entry))
        return known[1]

    def _parts(self, offer: Offer, files: ModelFiles, entry: Entry) -> dict[str, ModelPlan]:
        """Return the plans of a backend's parts."""
        if offer.backend.parts is None:
            return {}
        plans = {}
        for label, part in offer.backend.parts(files, offer.plugin.settings).items():
            own = part.model == files.name
            try:
                found = entry if own else self._models.entry(part.model)
            except NotFound:
                raise Unavailable(
                    f"{files.name} needs a model that is not here: "
                    f"mataserver pull {part.model} --task {part.task}"
                ) from None
            plans[label] = self._make_plan(part.model, found, part.task)
        return plans
