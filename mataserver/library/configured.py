"""The models of the configuration: their registration and validation."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mataserver.contract.backend import ModelFiles
from mataserver.errors import InvalidParams, MataError, NotFound, Unavailable
from mataserver.library import weights
from mataserver.library.plugin_models import cached_entry
from mataserver.library.registry import Entry
from mataserver.params import parsing
from mataserver.sources import cache
from mataserver.suggestion import similar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mataserver.config import ModelSettings
    from mataserver.library.catalog import Catalog
    from mataserver.library.plans import ModelPlan


class ConfiguredModels:
    """``models:`` of a configuration, by default the catalogue's."""

    def __init__(self, catalog: Catalog, models: Sequence[ModelSettings] | None = None) -> None:
        self._catalog = catalog
        self._plugins = catalog.plugins
        self._registry = catalog.registry
        self._models = catalog.settings.models if models is None else models

    def add(self) -> None:
        """Register the configured models whose weights are present.

        Raises a ``MataError`` naming those that cannot be served, with remedies.
        """
        problems: list[MataError] = []
        for setting in self._models:
            try:
                self._add(setting)
            except MataError as error:
                problems.append(error)
        if problems:
            hints = dict.fromkeys(each.hint for each in problems if each.hint)
            raise MataError("; ".join(each.detail for each in problems), hint="; ".join(hints))

    def _add(self, setting: ModelSettings) -> None:
        name, task, known = setting.model, setting.task, self._catalog.entries().get(setting.model)
        if setting.path is not None and task is not None and (known is None or known.path):
            self._add_path(name, task, Path(setting.path), known)
        elif known is None and task is None:
            raise self._missing(name, "is not registered: give its task, or pull it")
        elif known is None and task is not None:
            entry = self._find(name, task)
            if entry is not None:
                self._catalog.match(weights.files(name, entry), task)
                self._registry.add(name, entry)
            elif self._plugins.pip_backend(name) is None:
                raise self._missing(name, f"is not here: mataserver pull {name} --task {task}")

    def _missing(self, name: str, problem: str) -> MataError:
        known = [*self._catalog.entries(), *self._plugins.pip_names]
        return MataError(f"models: {name} {problem}{similar(name, known)}")

    def _find(self, name: str, task: str) -> Entry | None:
        """Return an entry for a model that is present, from any source, None if it is not."""
        provided = self._plugins.pip_backend(name)
        if provided is not None and self._plugins.find_backend(ModelFiles(name, "pip"), task):
            provided.check_installed()
            return Entry(task=task, source="pip", pulled_at=time.time())
        if cache.cached(name) is not None:
            return Entry(task=task, source="hf", pulled_at=time.time())
        try:
            return cached_entry(name, task, self._plugins, self._registry)
        except MataError as error:
            raise MataError(f"models: {name}: {error.detail}") from None

    def _add_path(self, name: str, task: str, path: Path, known: Entry | None) -> None:
        """Register a configured path; replace the entry if the path was changed."""
        place = str(path.expanduser().resolve())
        if known is not None and (known.path, known.task) != (place, task):
            self._registry.remove(name)
        if known is None or (known.path, known.task) != (place, task):
            try:
                self._catalog.add_local(path, task, name)
            except MataError as error:
                raise MataError(f"models: {name}: {error.detail}", hint=error.hint) from None

    def check(self) -> None:
        """Validate ``task``, ``params`` and ``compile`` of ``models`` against each model's backend.

        Raises ``InvalidParams``. Skips missing models, which ``/ready`` reports.
        """
        for setting in self._models:
            self._check_task(setting)
            if setting.params or setting.compile:
                with contextlib.suppress(NotFound, Unavailable):
                    _check_params(setting, self._catalog.plan(setting.model))

    def _check_task(self, setting: ModelSettings) -> None:
        """Raise ``InvalidParams`` if a model does not serve its configured task."""
        name, task, known = setting.model, setting.task, self._catalog.entries().get(setting.model)
        provided = self._plugins.pip_backend(name)
        if task is None or (known is not None and known.task == task):
            return
        if known is not None:
            again = f"mataserver pull {name} --task {task} changes that"
            detail = f"it is registered for {known.task}, not {task}"
            wanted = self._plugins.find_backend(weights.files(name, known), task)
            detail += f": {again}" if wanted is not None and known.source != "local" else ""
        elif (
            provided is not None
            and self._plugins.find_backend(ModelFiles(name, "pip"), task) is None
        ):
            detail = f"it serves {provided.backend.task}, not {task}"
        else:
            return
        detail += self._plugins.tracker_hint(task)
        raise InvalidParams(f"models: {name}: task: {detail}")


def _check_params(setting: ModelSettings, plan: ModelPlan) -> None:
    """Validate a model's params: those of its backend, and of backends for parts of itself."""
    if setting.compile and not plan.backend.compiles:
        raise InvalidParams(
            f"models: {setting.model}: compile: {plan.backend.name} does not support compile"
        )
    own = [part for part in plan.parts.values() if part.spec.name == setting.model]
    try:
        parsing.check_defaults(setting.params, *(each.backend.params for each in (plan, *own)))
    except InvalidParams as error:
        raise InvalidParams(f"models: {setting.model}: {error.detail}") from None
