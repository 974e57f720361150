"""Where the files of a registered model lie, and how large they are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import UNSET

from mataserver import sources
from mataserver.contract.backend import ModelFiles

if TYPE_CHECKING:
    from mataserver.library.registry import Entry


def present(name: str, entry: Entry) -> bool:
    """Whether a model's files are here."""
    return entry.source == "pip" or _place(name, entry) is not None


def files(name: str, entry: Entry) -> ModelFiles:
    """Return what is known of a model: as it was converted, else as it was pulled.

    Raises ``StrayLink`` before anything is read of a model with a link that leads out of it, and
    ``BadRequest`` where its configuration cannot be read.
    """
    if entry.source == "pip":
        return ModelFiles(name, "pip")
    path = _place(name, entry) or original(name, entry)
    if path is not None:
        sources.check_links(path)
    config = sources.read_config(path) if path is not None and path.is_dir() else {}
    return ModelFiles(name, entry.source, path, config)


def size(name: str, entry: Entry) -> int | None:
    """Return the bytes on disk of what is served; None where nothing is known."""
    if entry.source == "pip":
        return None
    converted = _converted(entry)
    if converted is not None:
        return sources.size_of(converted)
    if entry.source == "local":
        return sources.size_of(Path(str(entry.path)))
    usage = sources.disk_usage(name)
    return None if usage is None else usage.size_bytes


def edition(name: str, entry: Entry) -> str:
    """Return what tells a model's files from others at the same place; nothing for "pip"."""
    path = None if entry.source == "pip" else _place(name, entry)
    return "" if path is None else sources.edition_of(path)


def _place(name: str, entry: Entry) -> Path | None:
    converted = _converted(entry)
    if converted is not None:
        return converted
    own = original(name, entry)
    return own if own is not None and own.exists() else None


def _converted(entry: Entry) -> Path | None:
    """Return the converted model; one that was deleted by hand does not count."""
    if entry.converted is UNSET:
        return None
    path = Path(entry.converted)
    return path if path.is_dir() else None


def original(name: str, entry: Entry) -> Path | None:
    """Return where a model's own files are, or were; None for "pip" and outside the hub's cache."""
    if entry.source == "hf":
        return sources.cached(name)
    return None if entry.path is UNSET else Path(entry.path)
