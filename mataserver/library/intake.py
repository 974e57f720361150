"""Registration of models: pulls from the hub or with pip, local paths, conversions."""

from __future__ import annotations

import asyncio
import shutil
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET

from mataserver import sources
from mataserver.contract.backend import ModelFiles
from mataserver.errors import BadRequest, Conflict, MataError
from mataserver.library import removal, weights
from mataserver.library.registry import Entry
from mataserver.suggestion import describe_unknown_task, similar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from mataserver.config import Settings
    from mataserver.library.plans import ModelPlans
    from mataserver.library.registered import RegisteredModels
    from mataserver.plugins import Offer, Plugins

_EXPORT = "`mataserver export {0} --register` converts it"


@dataclass(frozen=True, slots=True)
class Pulled:
    """The result of a registration.

    name, entry: what was registered.
    replaced:    the previous entry, if any.
    warnings:    messages for the operator.
    """

    name: str
    entry: Entry
    replaced: Entry | None = None
    warnings: list[str] = field(default_factory=list)


class Intake:
    """Registers models. ``pulls`` are those in progress."""

    def __init__(
        self, settings: Settings, models: RegisteredModels, plugins: Plugins, plans: ModelPlans
    ) -> None:
        self.settings = settings
        self.pulls = sources.Pulls()
        self._models = models
        self._registry = models.registry
        self._plugins = plugins
        self._plans = plans
        self._installing = asyncio.Lock()

    async def pull(
        self,
        name: str,
        task: str,
        on_step: Callable[[sources.Step], None] | None = None,
        *,
        allow_pip: bool = True,
    ) -> Pulled:
        """Download or install a model and register it. Idempotent.

        A limited number of pulls run concurrently, others are queued: ``on_step`` reports it.
        Raises ``BadRequest`` for any failure, ``Conflict`` while the same model is being pulled,
        ``Unavailable`` if too many are queued.
        """
        self._check_task(task)
        with self.pulls.begun(name, on_step) as pull:
            offer = self._plugins.pip(name)
            if offer is not None:
                warnings = await self._install(offer, task, pull, allow_pip=allow_pip)
                return self._register(
                    name, Entry(task=task, source="pip", pulled_at=time.time()), warnings
                )
            sources.validate_repo_id(name)
            async with pull.turn():
                self.match(ModelFiles(name, "hf", None, await self._config_of(name, task)), task)
                await sources.download(name, pull.tell)
            return self._adopt(name, Entry(task=task, source="hf", pulled_at=time.time()))

    async def _config_of(self, name: str, task: str) -> dict[str, Any]:
        """Return a repository's ``config.json``; if there is none, suggest similar names."""
        try:
            return await sources.fetch_config(name)
        except MataError as error:
            meant = "" if "/" in name else similar(name, self._plugins.pip_names)
            error.detail += meant
            if not meant and not self._plugins.serves_hub(task):
                error.detail += (
                    f"; no installed plugin serves models of the hub for the task {task}"
                )
            raise

    def add_local(self, path: Path, task: str, name: str | None = None) -> Pulled:
        """Register a local directory or file.

        Raises ``BadRequest`` if no backend serves it, ``Conflict`` if the name is in use.
        """
        return self._adopt(*self._local(path, task, name))

    def _local(self, path: Path, task: str, name: str | None) -> tuple[str, Entry]:
        """Return a path's name and entry. Raises ``BadRequest`` and ``Conflict``."""
        place = path.expanduser().resolve()
        if not place.exists():
            raise BadRequest("no such file or directory")
        chosen = name or place.name
        entry = Entry(task=task, source="local", pulled_at=time.time(), path=str(place))
        taken = self._registry.get(chosen)
        if taken is not None and (taken.source != "local" or taken.path != entry.path):
            raise Conflict(f"the name {chosen!r} is in use: choose another with --name")
        self._check_task(task)
        return chosen, entry

    def _check_task(self, task: str) -> None:
        """Raise ``BadRequest`` unless the task is one of the API or of an installed plugin."""
        if task not in self._plugins.tasks:
            raise BadRequest(f"Unknown task {describe_unknown_task(task, self._plugins.tasks)}")

    def _adopt(self, name: str, entry: Entry) -> Pulled:
        """Register a model that is present. Raises ``BadRequest`` if no backend serves it."""
        try:
            self.match(weights.files(name, entry), entry.task)
        except BadRequest as error:
            if self._converts(name):
                error.detail += f"; {_EXPORT.format(name)}, `runtime: auto` does not any more"
            raise
        return self._register(name, entry)

    def _converts(self, name: str) -> bool:
        """Whether the settings request the former conversion at the pull."""
        return self.settings.runtime_of(name) == "auto"

    def convert(self, name: str, task: str, directory: Path, path: Path | None = None) -> Pulled:
        """Register a model to be served from ``directory``; ``path`` has a local one's own files.

        Raises ``NotFound`` for a missing model, ``Conflict`` for a name in use, and ``BadRequest``
        if no backend serves the directory.
        """
        known = self._registry.get(name)
        if path is not None:
            _, entry = self._local(path, task, name)
        elif known is not None:
            entry = msgspec.structs.replace(known, task=task)
        elif sources.cached(name) is not None:
            entry = Entry(task=task, source="hf", pulled_at=time.time())
        else:
            raise self._models.missing(name)
        if entry.source == "pip":
            raise BadRequest(f"{name} has no files of its own: its weights come with its package")
        entry = msgspec.structs.replace(entry, converted=str(directory.resolve()))
        self.match(weights.files(name, entry), task)
        return self._register(name, entry)

    def match(self, files: ModelFiles, task: str) -> None:
        """Raise ``BadRequest`` with the reason if no backend serves a model for a task."""
        if self._plugins.offer(files, task) is not None:
            return
        reason = self._plugins.refusal(files, task)
        if reason is not None:
            raise BadRequest(f"{files.name} cannot be served: {reason}")
        kind = files.model_type or "unknown"
        others = [
            other for other in self._plugins.tasks if self._plugins.offer(files, other) is not None
        ]
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
        composed = self._plugins.offer(ModelFiles(backend.name, "pip"), task)
        if composed is None:
            raise BadRequest(f"Task mismatch: {backend.name} serves {backend.task}, not {task}")
        if offer.missing or offer.unsuitable:
            if not allow_pip:
                raise BadRequest(
                    f"Installing packages is turned off; install {backend.name} by hand"
                )
            # The lock serializes changes of the environment by pip.
            async with pull.turn(), self._installing:
                await sources.install(backend.packages, lambda line: pull.tell(sources.Said(line)))
            if offer.missing:
                raise BadRequest(f"{backend.name} was installed but cannot be imported")
        if backend.system_binary and shutil.which(backend.system_binary) is None:
            return [f"{backend.name} needs the system binary {backend.system_binary}: not found"]
        return []

    def _register(self, name: str, entry: Entry, warnings: Sequence[str] = ()) -> Pulled:
        replaced = self._registry.get(name)
        self._registry.add(name, entry)
        self._plans.clear()
        said = [*warnings, *self._unconverted(name, entry, replaced)]
        if replaced is not None:
            removal.discard(replaced, self._registry)
        offer = self._plugins.offer(weights.files(name, entry), entry.task)
        if offer is not None and offer.plugin.note:
            said.append(f"the plugin {offer.plugin.name}: {offer.plugin.note}")
        return Pulled(name, entry, replaced, said)

    def _unconverted(self, name: str, entry: Entry, replaced: Entry | None) -> list[str]:
        """Explain how to convert a model that is served as pulled, if it used to be converted."""
        if entry.converted is not UNSET:
            return []
        if replaced is not None and replaced.converted is not UNSET:
            return [f"{name} is served as it was pulled again: {_EXPORT.format(name)}"]
        if entry.source != "pip" and self._converts(name):
            return [f"{name} is not converted, `runtime: auto` is no more: {_EXPORT.format(name)}"]
        return []
