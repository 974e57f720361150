"""The models' plans: everything needed to load a model, from the catalogue to the engine.

They are cached: looked up per request, and rebuilt when files change.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from mataserver.contract.backend import LoadedPart, ModelSpec
from mataserver.errors import NotFound, Unavailable
from mataserver.library import weights
from mataserver.params import parsing, table
from mataserver.sources import links

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mataserver.config import ModelSettings, Settings
    from mataserver.contract.backend import Backend, ModelFiles
    from mataserver.library.registered import RegisteredModels
    from mataserver.library.registry import Entry
    from mataserver.params.table import Params
    from mataserver.plugins import Plugins, ProvidedBackend

T = TypeVar("T")

CACHE_SECONDS = 0.2
"""Seconds for which a cached plan is used without checking the disk."""
_BASE_BYTES = 256_000_000


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """Everything needed to load a model.

    ``family`` is the common name of its distribution's plugins. ``estimate`` is its memory in bytes
    before the first load. ``edition`` identifies the files at the time of registration, to detect
    others registered later at the same place.
    """

    spec: ModelSpec
    backend: Backend
    plugin: str
    plugin_settings: object
    settings: ModelSettings
    estimate: int
    parts: Mapping[str, ModelPlan] = field(default_factory=dict)
    family: str = ""
    edition: str = ""
    _default_params: dict[int, Params] = field(default_factory=dict, repr=False, compare=False)
    """Cache of the parameters of an empty request, by the server's ceiling."""

    def same_model(self, other: ModelPlan) -> bool:
        """Whether a worker of this plan also serves the other one."""
        if self is other:
            return True
        mine, others = self.parts, other.parts
        return (
            (self.spec, self.edition, self.backend) == (other.spec, other.edition, other.backend)
            and mine.keys() == others.keys()
            and all(part.same_model(others[label]) for label, part in mine.items())
        )

    @property
    def with_parts(self) -> list[ModelPlan]:
        """The plan and the plans of its parts."""
        return [self, *(each for part in self.parts.values() for each in part.with_parts)]

    @property
    def owner(self) -> str:
        """The family whose zygote forks its worker, and whose ``data_dir`` folder it may write."""
        return self.family or self.plugin

    @property
    def uses_gpu(self) -> bool:
        """Whether it, or a part of it, uses a GPU if there is one."""
        return any(each.backend.gpu for each in self.with_parts)

    def params(self, given: Any, max_tokens: int, *, text: bool = False) -> Params:
        """Parse the parameters of an inference: the only place where that happens.

        ``given`` is a mapping of names as in a request (with ``text``, as in a form or a query), or
        a struct of the backend, whose types the worker checks. Missing values come from the model's
        configuration, then from the backend; ``max_tokens`` is the server's ceiling. Raises
        ``InvalidParams`` naming the parameter.
        """
        defaults = self.settings.params
        if isinstance(given, table.Params):
            parsing.check_ceiling(given, defaults, max_tokens)
            return given
        parse = parsing.parse_text if text else parsing.parse
        named = parsing.check_object(given)
        if not named and max_tokens in self._default_params:
            return self._default_params[max_tokens]
        found = parse(named, self.backend.params, defaults=defaults, max_tokens=max_tokens)
        _check(self, found)
        if not named and _is_fixed(found):
            self._default_params[max_tokens] = found
        return found

    def engine(self, preferred: str) -> str:
        """Return its engine: the model's setting, else the server's, else the backend's."""
        chosen: str = self.settings.engine
        if chosen == "auto" and self.settings.max_ram_mb is not None:
            return "process"  # a thread's share of the process's memory cannot be measured
        if chosen == "auto":
            chosen = self.backend.engine if preferred == "auto" else preferred
        return chosen

    @property
    def key(self) -> tuple[str, str]:
        """The pool's key: a model may serve two tasks."""
        return (self.spec.name, self.spec.task)


def _check(plan: ModelPlan, found: Params) -> None:
    """Raise ``InvalidParams`` for what the backend, or a part of it, cannot answer."""
    found.check()
    for label, given in found.of_parts().items():
        part = plan.parts[label]
        kind = part.backend.params
        defaults = parsing.configured(part.settings.params, kind)
        _check(part, LoadedPart(None, kind, defaults).params_with(**given))


def _is_fixed(found: Params) -> bool:
    """Whether parameters are immutable, so that they can be shared between requests."""
    try:
        hash(found)
    except TypeError:
        return False
    return True


@dataclass(slots=True)
class _CachedPlan:
    """A plan, the entries of it and its parts, and the time of the last check."""

    entries: dict[str, Entry | None]
    plan: ModelPlan
    checked_at: float = 0.0


class ModelPlans:
    """The plans of the registered models."""

    def __init__(self, settings: Settings, models: RegisteredModels, plugins: Plugins) -> None:
        self._settings = settings
        self._models = models
        self._plugins = plugins
        self._cache: dict[tuple[str, str | None], _CachedPlan] = {}
        self._editions: dict[str, tuple[Entry, str]] = {}
        self._changing = asyncio.Lock()

    def clear(self) -> None:
        """Drop every plan: plugins or registrations have changed."""
        self._cache.clear()

    async def change(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function that changes the registry in a thread, then drop every plan.

        One at a time: each may wait for another program's lock, and would keep a thread of the
        pool that others need. If cancelled, it waits for the function's end.
        """
        from mataserver.sources.plugin_sources import finish  # not for the start

        async with self._changing:
            try:
                return await finish(function, *arguments)
            finally:
                self.clear()

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
        cached = self._cache.get((name, task))
        now = time.monotonic()
        if cached is not None and now - cached.checked_at < CACHE_SECONDS:
            return cached.plan
        entry = self._models.entry(name)
        if cached is None or not self._is_unchanged(cached):
            # Read before: what a thread registers meanwhile may not be in the plan.
            entries = self._models.entries() | {name: entry}
            plan = self._make_plan(name, entry, task or entry.task)
            involved = {each.spec.name: entries.get(each.spec.name) for each in plan.with_parts}
            cached = self._cache[name, task] = _CachedPlan(involved, plan)
        cached.checked_at = now
        return cached.plan

    def _is_unchanged(self, cached: _CachedPlan) -> bool:
        """Whether a model and its parts are registered unchanged, with their files present."""
        entries = self._models.entries()
        return all(
            entry is not None and entries.get(name) == entry and weights.are_present(name, entry)
            for name, entry in cached.entries.items()
        )

    def _make_plan(
        self, name: str, entry: Entry, task: str, above: frozenset[tuple[str, str]] = frozenset()
    ) -> ModelPlan:
        """Make a plan; ``above`` are the models, and their backends, that it is a part of."""
        backends_above = frozenset(backend for model, backend in above if model == name)
        try:
            files = weights.files(name, entry)
        except links.OutsideLinkError as error:
            raise Unavailable(f"{name} cannot be served: {error.detail}") from None
        provided = self._plugins.find_backend(files, task, backends_above)
        if provided is None:
            if backends_above:
                raise Unavailable(f"{name} cannot be served: it would be a part of itself")
            reason = self._plugins.rejection_reason(files, task)
            if reason is not None:
                raise Unavailable(f"{name} cannot be served: {reason}")
            raise Unavailable(f"No installed plugin serves {name} for the task {task}")
        provided.check_installed()
        parts = self._parts(provided, files, entry, above | {(name, provided.backend.name)})
        size = weights.size(name, entry) or 0
        settings = self._settings.model(name)
        return ModelPlan(
            spec=ModelSpec(name, task, files.source, files.path),
            backend=provided.backend,
            plugin=provided.plugin.name,
            family=provided.plugin.family,
            edition=self._edition(name, entry),
            plugin_settings=provided.plugin.settings,
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
        cached = self._editions.get(name)
        if cached is None or cached[0] != entry:
            cached = self._editions[name] = (entry, weights.edition(name, entry))
        return cached[1]

    def _parts(
        self,
        provided: ProvidedBackend,
        files: ModelFiles,
        entry: Entry,
        above: frozenset[tuple[str, str]],
    ) -> dict[str, ModelPlan]:
        if provided.backend.parts is None:
            return {}
        plans = {}
        for label, part in provided.backend.parts(files, provided.plugin.settings).items():
            own = part.model == files.name
            try:
                found = entry if own else self._models.entry(part.model)
            except NotFound:
                raise Unavailable(
                    f"{files.name} needs a model that is not here: "
                    f"mataserver pull {part.model} --task {part.task}"
                ) from None
            plans[label] = self._make_plan(part.model, found, part.task, above)
        return plans
