"""The default models: each registered once, recorded by a mark in the data directory.

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
    import contextlib
    from pathlib import Path

    from mataserver.config import Settings
    from mataserver.library.registry import Registry
    from mataserver.plugins import Plugins

DEFAULTS = ("rapidocr", "opencv-faces", "opencv-qr")
"""Backends whose weights come with their packages."""

FILE = "registered_defaults"

log = logging.getLogger("mataserver.catalog")


class RegisteredDefaults:
    """The defaults already registered: one name per line of a file in the data directory.

    The file is append-only, so that several processes may write at once.
    """

    def __init__(self, data_path: Path) -> None:
        self._path = data_path / FILE

    def unregistered(self) -> list[str]:
        """Return the defaults not registered yet. Raises ``MataError``."""
        with self._os_errors("read"):
            try:
                registered = set(self._path.read_text(encoding="utf-8", errors="replace").split())
            except FileNotFoundError:
                registered = set()
        return [name for name in DEFAULTS if name not in registered]

    def add(self, name: str) -> None:
        """Record a default as registered. Raises ``MataError``."""
        with self._os_errors("write"):
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(name + "\n")

    def _os_errors(self, verb: str) -> contextlib.AbstractContextManager[None]:
        return os_errors_as(f"could not {verb} which defaults were registered", self._path)


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
    registered, added = RegisteredDefaults(registry.path.parent), []
    for name in registered.unregistered():
        provided = plugins.pip_backend(name)
        if provided is None or provided.missing:
            continue
        if registry.get(name) is None:
            task = _task(settings, plugins, name, provided.backend.task)
            registry.add(name, Entry(task=task, source="pip", pulled_at=time.time()))
            added.append(name)
        registered.add(name)
    return added


def _task(settings: Settings, plugins: Plugins, name: str, task: str) -> str:
    """Return the task to register a default for: the configured one, if it serves that.

    The configuration may exist before the default is first registered.
    """
    wanted = settings.model(name).task
    served = wanted is not None and plugins.find_backend(ModelFiles(name, "pip"), wanted)
    return wanted if wanted is not None and served else task
