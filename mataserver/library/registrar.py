"""Registration of models: pulls from the hub, with pip or from plugins' sources, local paths."""

from __future__ import annotations

import asyncio
import shutil
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET

from mataserver.contract.backend import ModelFiles
from mataserver.errors import BadRequest, Conflict, MataError
from mataserver.library import plugin_models, removal, weights
from mataserver.library.registry import Entry
from mataserver.plugins.records import check_installed
from mataserver.sources import cache, messages, pulls
from mataserver.suggestion import describe_unknown_task, similar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from mataserver.config import Settings
    from mataserver.library.plans import ModelPlans
    from mataserver.library.registered import RegisteredModels
    from mataserver.plugins import Plugins, ProvidedBackend

_EXPORT = "`mataserver export {0} --register` converts it"


@dataclass(frozen=True, slots=True)
class Registration:
    """The result of a registration.

    name:     what was registered.
    replaced: the previous entry, if any.
    warnings: messages for the operator.
    """

    name: str
    replaced: Entry | None = None
    warnings: list[str] = field(default_factory=list)


class ModelRegistrar:
    """Registers models. ``pulls`` are those in progress."""

    def __init__(
        self, settings: Settings, models: RegisteredModels, plugins: Plugins, plans: ModelPlans
    ) -> None:
        self.settings = settings
        self.pulls = pulls.Pulls()
        self._models = models
        self._registry = models.registry
        self._plugins = plugins
        self._plans = plans
        self._installing = asyncio.Lock()

    async def pull(
        self,
        name: str,
        task: str,
        on_step: Callable[[messages.Step], None] | None = None,
        *,
        allow_pip: bool = True,
    ) -> Registration:
        """Download or install a model and register it. Idempotent.

        A limited number of pulls run concurrently, others are queued: ``on_step`` reports it.
        Raises ``BadRequest`` for any failure, ``Conflict`` while the same model is being pulled,
        ``Unavailable`` if too many are queued.
        """
        from mataserver.sources import hub  # only a pull needs it: not the start

        self._check_task(task)
        with self.pulls.register(name, on_step) as pull:
            provided = self._plugins.pip_backend(name)
            if provided is not None:
                warnings = await self._install(provided, task, pull, allow_pip=allow_pip)
                entry = Entry(task=task, source="pip", pulled_at=time.time())
                return await self._plans.change(self._register, name, entry, warnings)
            source = plugin_models.find_source(name, self._plugins)
            if source is not None:
                check_installed(f"The source {source.spec.name}", source.spec)
                async with self.pulls.slot(pull):
                    entry = await plugin_models.pull(
                        source,
                        task,
                        self._registry,
                        pull.report,
                        lambda entry: self.match(weights.files(name, entry), task),
                    )
                return await self._plans.change(self._register, name, entry)
            hub.validate_repo_id(name)
            async with self.pulls.slot(pull):
                config = await _fetch_config(name, task, self._plugins)
                self.match(ModelFiles(name, "hf", None, config), task)
                await hub.download(name, pull.report)
            entry = Entry(task=task, source="hf", pulled_at=time.time())
            return await self._plans.change(self._register_present, name, entry)

    def add_local(self, path: Path, task: str, name: str | None = None) -> Registration:
        """Register a local directory or file.

        Raises ``BadRequest`` if no backend serves it, ``Conflict`` if the name is in use.
        """
        return self._register_present(*self._local_entry(path, task, name))

    def _local_entry(self, path: Path, task: str, name: str | None) -> tuple[str, Entry]:
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

    def _register_present(self, name: str, entry: Entry) -> Registration:
        """Register a model that is present. Raises ``BadRequest`` if no backend serves it."""
        try:
            self.match(weights.files(name, entry), entry.task)
        except BadRequest as error:
            if self._expects_conversion(name):
                error.detail += f"; {_EXPORT.format(name)}, `runtime: auto` does not any more"
            raise
        return self._register(name, entry)

    def _expects_conversion(self, name: str) -> bool:
        """Whether the settings request the former conversion at the pull."""
        return self.settings.runtime_of(name) == "auto"

    def convert(
        self, name: str, task: str, directory: Path, path: Path | None = None
    ) -> Registration:
        """Register a model to be served from ``directory``; ``path`` has a local one's own files.

        Raises ``NotFound`` for a missing model, ``Conflict`` for a name in use, and ``BadRequest``
        if no backend serves the directory.
        """
        known = self._registry.get(name)
        if path is not None:
            _, entry = self._local_entry(path, task, name)
        elif known is not None:
            entry = msgspec.structs.replace(known, task=task)
        elif cache.cached(name) is not None:
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
        if self._plugins.find_backend(files, task) is not None:
            return
        reason = self._plugins.rejection_reason(files, task)
        if reason is not None:
            raise BadRequest(f"{files.name} cannot be served: {reason}")
        kind = files.model_type or "unknown"
        others = [
            other
            for other in self._plugins.tasks
            if self._plugins.find_backend(files, other) is not None
        ]
        if others:
            raise BadRequest(
                f"Task mismatch: {files.name} ({kind}) serves {', '.join(others)}, not {task}"
                f"{self._plugins.tracker_hint(task)}"
            )
        if files.model_type:
            what = f"models of type {kind!r}"
        elif files.path is not None and files.path.is_file():
            what = f"{files.path.suffix} files" if files.path.suffix else "files without a suffix"
        else:
            raise BadRequest(
                "The model has no config.json that names a model_type, "
                f"and no installed plugin serves one without it for the task {task}"
            )
        raise BadRequest(f"No installed plugin serves {what} for the task {task}")

    async def _install(
        self, provided: ProvidedBackend, task: str, pull: pulls.Pull, *, allow_pip: bool
    ) -> list[str]:
        backend = provided.backend
        composed = self._plugins.find_backend(ModelFiles(backend.name, "pip"), task)
        if composed is None:
            mismatch = f"Task mismatch: {backend.name} serves {backend.task}, not {task}"
            raise BadRequest(mismatch + self._plugins.tracker_hint(task))
        if provided.missing or provided.unsuitable:
            if not allow_pip:
                raise BadRequest(
                    f"Installing packages is turned off; install {backend.name} by hand"
                )
            from mataserver.sources import packages  # as above

            # The lock serializes changes of the environment by pip.
            async with self.pulls.slot(pull), self._installing:
                await packages.install(
                    backend.packages, lambda line: pull.report(messages.PipOutput(line))
                )
            if provided.missing:
                raise BadRequest(f"{backend.name} was installed but cannot be imported")
        if backend.system_binary and shutil.which(backend.system_binary) is None:
            return [f"{backend.name} needs the system binary {backend.system_binary}: not found"]
        return []

    def _register(self, name: str, entry: Entry, warnings: Sequence[str] = ()) -> Registration:
        replaced = self._registry.get(name)
        self._registry.add(name, entry)
        self._plans.clear()
        messages = [*warnings, *self._conversion_warnings(name, entry, replaced)]
        if replaced is not None:
            removal.discard_converted(replaced, self._registry)
        provided = self._plugins.find_backend(weights.files(name, entry), entry.task)
        if provided is not None and provided.plugin.note:
            messages.append(f"the plugin {provided.plugin.name}: {provided.plugin.note}")
        return Registration(name, replaced, messages)

    def _conversion_warnings(self, name: str, entry: Entry, replaced: Entry | None) -> list[str]:
        """Explain how to convert a model that is served as pulled, if it used to be converted."""
        if entry.converted is not UNSET:
            return []
        if replaced is not None and replaced.converted is not UNSET:
            return [f"{name} is served as it was pulled again: {_EXPORT.format(name)}"]
        if entry.source != "pip" and self._expects_conversion(name):
            return [f"{name} is not converted, `runtime: auto` is no more: {_EXPORT.format(name)}"]
        return []


async def _fetch_config(name: str, task: str, plugins: Plugins) -> dict[str, Any]:
    """Return a repository's ``config.json``; if there is none, suggest similar names."""
    from mataserver.sources import hub  # see above

    try:
        return await hub.fetch_config(name)
    except MataError as error:
        meant = "" if "/" in name else similar(name, plugins.pip_names)
        error.detail += meant
        if not meant and not plugins.serves_hub(task):
            error.detail += f"; no installed plugin serves models of the hub for the task {task}"
        raise
