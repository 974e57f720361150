"""A model's way out of the registry, the same for the command and for the API."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import UNSET

from mataserver.defaults import DEFAULTS, Marks

if TYPE_CHECKING:
    from mataserver.registry import Entry, Registry


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
    if entry.converted is not UNSET:
        from mataserver.conversions.workshop import Workshop

        Workshop(data_path / "converted", registry).sweep()
    return entry
