"""The catalogue: the registered models, what serves them, and how they come and go."""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET

from mataserver import removal, sources, weights
from mataserver.contract import ModelFiles, ModelSpec
from mataserver.defaults import Marks
from mataserver.errors import BadRequest, Conflict, MataError, NotFound, Unavailable
from mataserver.registry import Entry, RegistryError
from mataserver.results import TASKS
from mataserver.serving.recipe import Recipe
from mataserver.suggestion import instead_of, similar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from mataserver.config import Settings
    from mataserver.plugins import Offer, Plugins
    from mataserver.registry import Registry
    from mataserver.serving.pool import ModelPool

TRACKED = ("detect", "track")
"""A registered task and the other one that its model may serve in a session."""

FRESH = 0.2
"""Seconds for which a model is believed to be as it was last seen."""

_BASE_BYTES = 256_000_000
_EXPORT = "`mataserver export {0} --register` converts it"

log = logging.getLogger("mataserver.catalog")


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a pull did.

    name, entry: what it registered.
    replaced:    the entry that was there before.
    warnings:    what a person should know.
    """

    name: str
    entry: Entry
    replaced: Entry | None = None
    warnings: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Known:
    """A recipe, the entries of it and its parts, and when those were last looked at."""

    entries: dict[str, Entry]
    recipe: Recipe
    seen: float = 0.0


class Catalog:
    """The models of one server or of one command."""

    def __init__(self, settings: Settings, registry: Registry, plugins: Plugins) -> None:
        self.settings = settings
        self.registry = registry
        self.plugins = plugins
        self._pulls = sources.Pulls()
        self._installing = asyncio.Lock()
        self._recipes: dict[tuple[str, str | None], _Known] = {}
        self._complained = ""
        self._grown = plugins.grown

    # looking

    def entries(self) -> dict[str, Entry]:
        """Return the registered models; of a registry that got corrupt, the last good copy."""
        try:
            return self.registry.entries()
        except RegistryError as error:
            if error.detail != self._complained:
                log.error("%s; serving what was read before", error.told)  # noqa: TRY400
                self._complained = error.detail
            return self.registry.last_good()

    def entry(self, name: str) -> Entry:
        """Return one registered model. Raises ``NotFound``, also when its files are gone."""
        entry = self.entries().get(name)
        if entry is None or not weights.present(name, entry):
            raise NotFound(f"Model not found: {name[:200]}{similar(name, self.entries())}")
        return entry

    def recipe(self, name: str, task: str | None = None) -> Recipe:
        """Return what it takes to load a model, for its own task or another.

        The disk is looked at a few times a second and not for every request. Raises ``NotFound``
        for a model that is not registered or whose files are gone, ``Unavailable`` for a task
        that nothing serves.
        """
        known = self._recipes.get((name, task))
        now = time.monotonic()
        if known is not None and now - known.seen < FRESH:
            return known.recipe
        entry = self.entry(name)
        if known is None or not self._unchanged(known):
            recipe = self._make_recipe(name, entry, task or entry.task)
            entries = self.entries()
            involved = {each: entries[each] for each in recipe.names if each in entries}
            known = self._recipes[name, task] = _Known(involved, recipe)
        known.seen = now
        return known.recipe

    def _unchanged(self, known: _Known) -> bool:
        """Whether a model and all of its parts are registered as they were, and still here."""
        entries = self.entries()
        return all(
            entries.get(name) == entry and weights.present(name, entry)
            for name, entry in known.entries.items()
        )

    def serves(self, name: str, task: str) -> bool:
        """Whether an installed backend serves a registered model for ``task``."""
        return self.plugins.offer(weights.files(name, self.entry(name)), task) is not None

    # coming and going

    async def pull(
        self,
        name: str,
        task: str,
        on_step: Callable[[sources.Step], None] | None = None,
        *,
        allow_pip: bool = True,
    ) -> Pulled:
        """Download or install a model and register it. The same again is no error.

        A few at once fetch something, the others wait for their turn: ``on_step`` is told. Raises
        ``BadRequest`` for everything that goes wrong with it, ``Conflict`` while the same model is
        being pulled, ``Unavailable`` where too many wait.
        """
        if task not in TASKS:
            raise BadRequest(f"Unknown task {instead_of(task, TASKS)}")
        with self._pulls.begun(name, on_step) as pull:
            offer = self.plugins.pip(name)
            if offer is not None:
                warnings = await self._install(offer, task, pull, allow_pip=allow_pip)
                return self._register(
                    name, Entry(task=task, source="pip", pulled_at=time.time()), warnings
                )
            sources.validate_repo_id(name)
            async with pull.turn():
                self.match(ModelFiles(name, "hf", None, await self._config_of(name)), task)
                await sources.download(name, pull.tell)
            return self._adopt(name, Entry(task=task, source="hf", pulled_at=time.time()))

    async def _config_of(self, name: str) -> dict[str, Any]:
        """Return a repository's ``config.json``; a name that is no repository's may be misspelt."""
        try:
            return await sources.fetch_config(name)
        except MataError as error:
            meant = "" if "/" in name else similar(name, self.plugins.pip_names)
            error.detail += meant
            raise

    def add_local(self, path: Path, task: str, name: str | None = None) -> Pulled:
        """Register a local directory or file.

        Raises ``BadRequest`` when nothing serves it, ``Conflict`` when the name is in use.
        """
        return self._adopt(*self._local(path, task, name))

    def _local(self, path: Path, task: str, name: str | None) -> tuple[str, Entry]:
        """Return a path's name and entry. Raises ``BadRequest`` and ``Conflict``."""
        place = path.expanduser().resolve()
        if not place.exists():
            raise BadRequest("no such file or directory")
        chosen = name or place.name
        entry = Entry(task=task, source="local", pulled_at=time.time(), path=str(place))
        taken = self.registry.get(chosen)
        if taken is not None and (taken.source != "local" or taken.path != entry.path):
            raise Conflict(f"the name {chosen!r} is in use: choose another with --name")
        if task not in TASKS:
            raise BadRequest(f"Unknown task {instead_of(task, TASKS)}")
        return chosen, entry

    def _adopt(self, name: str, entry: Entry) -> Pulled:
        """Register a model that is here. Raises ``BadRequest`` when nothing serves it."""
        try:
            self.match(weights.files(name, entry), entry.task)
        except BadRequest as error:
            if self._converts(name):
                error.detail += f"; {_EXPORT.format(name)}, `runtime: auto` does not any more"
            raise
        return self._register(name, entry)

    def _converts(self, name: str) -> bool:
        """Whether the settings ask, as they once could, to convert a model at its pull."""
        return self.settings.runtime_of(name) == "auto"

    def convert(self, name: str, task: str, directory: Path, path: Path | None = None) -> Pulled:
        """Register a model to be served from ``directory``; ``path`` has a local one's own files.

        Raises ``NotFound`` for a model that is not here, ``Conflict`` for a name in use, and
        ``BadRequest`` when nothing serves what is there.
        """
        known = self.registry.get(name)
        if path is not None:
            _, entry = self._local(path, task, name)
        elif known is not None:
            entry = msgspec.structs.replace(known, task=task)
        elif sources.cached(name) is not None:
            entry = Entry(task=task, source="hf", pulled_at=time.time())
        else:
            raise NotFound(f"Model not found: {name[:200]}{similar(name, self.entries())}")
        if entry.source == "pip":
            raise BadRequest(f"{name} has no files of its own: its weights come with its package")
        entry = msgspec.structs.replace(entry, converted=str(directory.resolve()))
        self.match(weights.files(name, entry), task)
        return self._register(name, entry)

    async def remove(self, name: str, pool: ModelPool) -> None:
        """Forget a model and unload it after its active inferences; its weights stay on the disk.

        Raises ``NotFound``, and ``Conflict`` for a model that is being pulled, that the
        configuration names, or that somebody holds.
        """
        if name not in self.entries():
            raise NotFound(f"Model not found: {name[:200]}{similar(name, self.entries())}")
        if any(setting.model == name for setting in self.settings.models):
            raise Conflict(f"{name} is a model of the configuration: it cannot be removed")
        holders = pool.held(name)
        if holders:
            raise Conflict(f"{name} is held: sessions, cameras or plugins use it ({holders})")
        with self._pulls.begun(name, None):
            await asyncio.to_thread(removal.remove, name, self.registry)
            self._recipes.clear()
            pool.unpin(name)
            await pool.unload(name, None, "removed")

    def add_defaults(self) -> list[str]:
        """Register the defaults that are installed, each once in the life of a data directory.

        Raises ``MataError`` when a registry cannot be made; what cannot be added to one is logged.
        """
        if not self.settings.register_defaults:
            return []
        try:
            return self._add_defaults()
        except MataError as error:
            if not self.registry.path.exists():
                raise
            log.warning(error.told)
            return []

    def _add_defaults(self) -> list[str]:
        marks, added = Marks(self.registry.path.parent), []
        for name in marks.waiting():
            offer = self.plugins.pip(name)
            if offer is None or offer.missing:
                continue
            if self.registry.get(name) is None:
                task = self._default_task(name, offer.backend.task)
                self.registry.add(name, Entry(task=task, source="pip", pulled_at=time.time()))
                added.append(name)
            marks.add(name)
        return added

    def _default_task(self, name: str, task: str) -> str:
        """Return the task that a default is registered for: the configured one, where it serves it.

        The configuration is older than the first start that registers the default unasked.
        """
        wanted = self.settings.model(name).task
        served = wanted is not None and self.plugins.offer(ModelFiles(name, "pip"), wanted)
        return wanted if wanted is not None and served else task

    def reconfigure(self, settings: Settings) -> None:
        """Serve the models as other settings say, from the next request on."""
        self.settings = settings
        self._recipes.clear()

    async def reconcile(self, pool: ModelPool) -> None:
        """Unload what is no longer registered, or for another task; take in new plugins.

        What is registered with other files is replaced by its next request.
        """
        await asyncio.to_thread(self.plugins.refresh)
        if self.plugins.grown != self._grown:
            self._grown = self.plugins.grown
            self._recipes.clear()
            self.add_defaults()
        entries = self.entries()
        for name, task in pool.loaded():
            entry = entries.get(name)
            if entry is None or (entry.task != task and (entry.task, task) != TRACKED):
                self._recipes.clear()
                await pool.unload(name, task, "removed")

    # the inside

    def _make_recipe(self, name: str, entry: Entry, task: str) -> Recipe:
        try:
            files = weights.files(name, entry)
        except sources.StrayLink as error:
            raise Unavailable(f"{name} cannot be served: {error.detail}") from None
        offer = self.plugins.offer(files, task)
        if offer is None:
            reason = self.plugins.refusal(files, task)
            if reason is not None:
                raise Unavailable(f"{name} cannot be served: {reason}")
            raise Unavailable(f"No installed plugin serves {name} for the task {task}")
        offer.check_installed()
        parts = self._parts(offer, files, entry)
        size = weights.size(name, entry) or 0
        settings = self.settings.model(name)
        return Recipe(
            spec=ModelSpec(name, task, entry.source, files.path),
            backend=offer.backend,
            plugin=offer.plugin.name,
            family=offer.plugin.family,
            plugin_settings=offer.plugin.settings,
            settings=settings,
            # A part is there as many times as the whole, not as its own entry says.
            estimate=settings.replicas
            * (_BASE_BYTES + size + sum(p.estimate // p.settings.replicas for p in parts.values())),
            parts=parts,
        )

    def _parts(self, offer: Offer, files: ModelFiles, entry: Entry) -> dict[str, Recipe]:
        """Return what it takes to load the models that a backend is composed of."""
        if offer.backend.parts is None:
            return {}
        recipes = {}
        for label, part in offer.backend.parts(files, offer.plugin.settings).items():
            own = part.model == files.name
            try:
                found = entry if own else self.entry(part.model)
            except NotFound:
                raise Unavailable(
                    f"{files.name} needs a model that is not here: "
                    f"mataserver pull {part.model} --task {part.task}"
                ) from None
            recipes[label] = self._make_recipe(part.model, found, part.task)
        return recipes

    def match(self, files: ModelFiles, task: str) -> None:
        """Raise ``BadRequest`` that says why nothing serves a model for a task, if nothing does."""
        if self.plugins.offer(files, task) is not None:
            return
        reason = self.plugins.refusal(files, task)
        if reason is not None:
            raise BadRequest(f"{files.name} cannot be served: {reason}")
        kind = files.model_type or "unknown"
        others = [other for other in TASKS if self.plugins.offer(files, other) is not None]
        if others:
            raise BadRequest(
                f"Task mismatch: {files.name} ({kind}) serves {', '.join(others)}, not {task}"
            )
        if not files.model_type:
            raise BadRequest(
                f"No installed plugin serves for the task {task} "
                "what has no config.json that names a model_type"
            )
        raise BadRequest(f"No installed plugin serves models of type {kind!r} for the task {task}")

    async def _install(
        self, offer: Offer, task: str, pull: sources.Pull, *, allow_pip: bool
    ) -> list[str]:
        backend = offer.backend
        composed = self.plugins.offer(ModelFiles(backend.name, "pip"), task)
        if composed is None:
            raise BadRequest(f"Task mismatch: {backend.name} serves {backend.task}, not {task}")
        if offer.missing or offer.unsuitable:
            if not allow_pip:
                raise BadRequest(
                    f"Installing packages is turned off; install {backend.name} by hand"
                )
            # One pip at a time changes the environment.
            async with pull.turn(), self._installing:
                await sources.install(backend.packages, lambda line: pull.tell(sources.Said(line)))
            if offer.missing:
                raise BadRequest(f"{backend.name} was installed but cannot be imported")
        if backend.system_binary and shutil.which(backend.system_binary) is None:
            return [f"{backend.name} needs the system binary {backend.system_binary}: not found"]
        return []

    def _register(self, name: str, entry: Entry, warnings: Sequence[str] = ()) -> Pulled:
        replaced = self.registry.get(name)
        self.registry.add(name, entry)
        self._recipes.clear()
        said = [*warnings, *self._unconverted(name, entry, replaced)]
        if replaced is not None:
            removal.discard(replaced, self.registry)
        offer = self.plugins.offer(weights.files(name, entry), entry.task)
        if offer is not None and offer.plugin.note:
            said.append(f"the plugin {offer.plugin.name}: {offer.plugin.note}")
        return Pulled(name, entry, replaced, said)

    def _unconverted(self, name: str, entry: Entry, replaced: Entry | None) -> list[str]:
        """Say of a model that is served as it was pulled how it is converted, where it was."""
        if entry.converted is not UNSET:
            return []
        if replaced is not None and replaced.converted is not UNSET:
            return [f"{name} is served as it was pulled again: {_EXPORT.format(name)}"]
        if entry.source != "pip" and self._converts(name):
            return [f"{name} is not converted, `runtime: auto` is no more: {_EXPORT.format(name)}"]
        return []
