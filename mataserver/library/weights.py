"""Location and size of a registered model's files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import UNSET

from mataserver.contract.backend import ModelFiles
from mataserver.sources import cache, links, local

if TYPE_CHECKING:
    from mataserver.library.registry import Entry


def are_present(name: str, entry: Entry) -> bool:
    """Whether a model's files are present."""
    return entry.source == "pip" or _served_path(name, entry) is not None


def files(name: str, entry: Entry) -> ModelFiles:
    """Return the description of a model's files: the converted copy, else the original.

    A model of a plugin's source is for backends as a local one: a directory or a file. Raises
    ``OutsideLinkError`` before reading from a model with a symbolic link that leads outside,
    and ``BadRequest`` if its configuration cannot be read.
    """
    if entry.source == "pip":
        return ModelFiles(name, "pip")
    path = _served_path(name, entry) or original_path(name, entry)
    if path is not None:
        links.check_links(path)
    config = local.read_config(path) if path is not None and path.is_dir() else {}
    return ModelFiles(name, "hf" if entry.source == "hf" else "local", path, config)


def size(name: str, entry: Entry) -> int | None:
    """Return the bytes on disk of the served files; None if unknown."""
    if entry.source == "pip":
        return None
    converted = _converted(entry)
    if converted is not None:
        return local.size_of(converted)
    if entry.path is not UNSET:
        return local.size_of(Path(entry.path))
    usage = cache.disk_usage(name)
    return None if usage is None else usage.size_bytes


def edition(name: str, entry: Entry) -> str:
    """Return an identifier of the version of a model's files; empty for "pip"."""
    path = None if entry.source == "pip" else _served_path(name, entry)
    return "" if path is None else local.edition_of(path)


def _served_path(name: str, entry: Entry) -> Path | None:
    converted = _converted(entry)
    if converted is not None:
        return converted
    own = original_path(name, entry)
    return own if own is not None and own.exists() else None


def _converted(entry: Entry) -> Path | None:
    """Return the converted copy, None if it was deleted manually."""
    if entry.converted is UNSET:
        return None
    path = Path(entry.converted)
    return path if path.is_dir() else None


def original_path(name: str, entry: Entry) -> Path | None:
    """Return the path of a model's own files, present or not; None for "pip" or if not cached."""
    if entry.source == "hf":
        return cache.cached(name)
    return None if entry.path is UNSET else Path(entry.path)
