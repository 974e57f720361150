"""A model's way out of the registry, the same for the command and for the API."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import UNSET

from mataserver.library.defaults import DEFAULTS, Marks

if TYPE_CHECKING:
    from mataserver.library.registry import Entry, Registry

CONVERTED = "converted"
"""The directory, in the data directory, of what was made of models."""


def remove(name: str, registry: Registry) -> Entry | None:
    """Forget a model; return what it was, or None if it was not known.

    What was pulled stays on the disk, what was converted of it goes. Blocking. Raises
    ``MataError`` when the registry cannot be written.
    """
    entry, data_path = registry.get(name), registry.path.parent
    if entry is None:
        return None
    if name in DEFAULTS:
        Marks(data_path).add(name)  # registered by who did not mark it: it stays away
    if not registry.remove(name):
        return None
    discard(entry, registry)
    return entry


def discard(entry: Entry, registry: Registry) -> None:
    """Delete the converted model that an entry was served from, if it is nobody's any more.

    Only what lies in the data directory's own folder, and not what a process holds to register it.
    """
    folder = registry.path.parent / CONVERTED
    place = _made(entry, folder)
    # By name: the way to the data directory may be another one elsewhere.
    kept = {made.name for each in registry.entries().values() if (made := _made(each, folder))}
    if place is None or place.name in kept:
        return
    with contextlib.suppress(OSError):  # it is gone, or another process has it locked
        descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(place)
        finally:
            os.close(descriptor)


def _made(entry: Entry, folder: Path) -> Path | None:
    """Return the directory in ``folder`` that a model is served from, or None."""
    used = entry.path if entry.converted is UNSET else entry.converted
    if used is UNSET or Path(used).parent.resolve() != folder.resolve():
        return None
    return folder / Path(used).name
