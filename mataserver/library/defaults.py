"""The default models of plugins: each registered once, recorded by a mark in the data directory.

So a default is registered even if other models were pulled before the first start, or its plugin
was installed later; and one that was removed stays removed.
"""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING

from mataserver.config.storage import os_errors_as
from mataserver.contract.backend import ModelFiles
from mataserver.errors import MataError
from mataserver.library.registry import Entry

if TYPE_CHECKING:
    from pathlib import Path

    from mataserver.config import Settings
    from mataserver.library.registry import Registry
    from mataserver.plugins import Plugins

FILE = "registered_defaults"
"""One name per line; append-only, so that several processes may write at once."""

log = logging.getLogger("mataserver.catalog")


def _registered(path: Path) -> list[str]:
    """Return the defaults that were registered before. Raises ``MataError``."""
    with os_errors_as("could not read which defaults were registered", path):
        try:
            return path.read_text(encoding="utf-8", errors="replace").split()
        except FileNotFoundError:
            return []


def record(data_path: Path, name: str) -> None:
    """Record a default as registered, once. Raises ``MataError``."""
    path = data_path / FILE
    if name in _registered(path):
        return
    with os_errors_as("could not write which defaults were registered", path):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(name + "\n")


def add_defaults(settings: Settings, registry: Registry, plugins: Plugins) -> list[str]:
    """Register the installed defaults, each once per data directory.

    Raises ``MataError`` if the registry cannot be created; failures to extend it are logged.
    """
    if not settings.register_defaults:
        return []
    try:
        return _add(settings, registry, plugins)
    except MataError as error:
        if not registry.path.exists():
            raise
        log.warning(error.told)
        return []


def _add(settings: Settings, registry: Registry, plugins: Plugins) -> list[str]:
    data_path, added = registry.path.parent, []
    before = _registered(data_path / FILE)
    for provided in plugins.provided:
        name, is_usable = provided.backend.name, provided.plugin.error is None
        if not (provided.backend.default and is_usable) or provided.missing or name in before:
            continue
        if registry.get(name) is None:
            task = _task(settings, plugins, name, provided.backend.task)
            registry.add(name, Entry(task=task, source="pip", pulled_at=time.time()))
            added.append(name)
        record(data_path, name)
    return added


def _task(settings: Settings, plugins: Plugins, name: str, task: str) -> str:
    """Return the task to register a default for: the configured one, if it serves that.

    The configuration may exist before the default is first registered.
    """
    wanted = settings.model(name).task
    served = wanted is not None and plugins.find_backend(ModelFiles(name, "pip"), wanted)
    return wanted if wanted is not None and served else task
