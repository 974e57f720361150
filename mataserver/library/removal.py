"""Removal of a model from the registry, for the command and the API."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import UNSET

from mataserver.library import defaults

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver.library.registry import Entry, Registry
    from mataserver.plugins import Plugins

CONVERTED = "converted"
"""The directory of converted copies, in the data directory."""


def remove(name: str, registry: Registry, plugins: Callable[[], Plugins]) -> Entry | None:
    """Unregister a model; return its entry, or None if it was not registered.

    ``plugins`` are asked whether a model of a package is a default: it must not return as one if
    it was registered by other means. Pulled files stay on disk, a converted copy is deleted.
    Blocking. Raises ``MataError`` if the registry cannot be written.
    """
    entry, data_path = registry.get(name), registry.path.parent
    if entry is None:
        return None
    provided = plugins().pip_backend(name) if entry.source == "pip" else None
    if provided is not None and provided.backend.default:
        defaults.record(data_path, name)
    if not registry.remove(name):
        return None
    discard_converted(entry, registry)
    return entry


def discard_converted(entry: Entry, registry: Registry) -> None:
    """Delete the converted copy of an entry, if no other entry uses it.

    Only in the data directory's own folder, and unless a process holds its lock to register it.
    """
    folder = registry.path.parent / CONVERTED
    place = _converted_directory(entry, folder)
    # Compares names only: the data directory may be mounted at different paths.
    kept = {
        made.name
        for each in registry.entries().values()
        if (made := _converted_directory(each, folder))
    }
    if place is None or place.name in kept:
        return
    with contextlib.suppress(OSError):  # it is gone, or locked by another process
        descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(place)
        finally:
            os.close(descriptor)


def _converted_directory(entry: Entry, folder: Path) -> Path | None:
    """Return the directory in ``folder`` that a model is served from, or None."""
    used = entry.path if entry.converted is UNSET else entry.converted
    if used is UNSET or Path(used).parent.resolve() != folder.resolve():
        return None
    return folder / Path(used).name
