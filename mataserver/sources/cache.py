"""The hub's cache on disk, read without importing huggingface_hub.

Layout (documented by huggingface_hub): ``models--org--name/`` contains ``refs/main`` (a commit),
``snapshots/<commit>/`` (symbolic links, named as in the repository) and ``blobs/`` (the contents,
named by their hash). Listing models must take milliseconds; importing the library takes a third of
a second.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mataserver.sources.local import files_below

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# Formats of weights. A snapshot without any is left by a program that read only the configuration.
WEIGHTS = frozenset(
    {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".onnx", ".h5", ".msgpack", ".gguf"}
)
_COMMIT = re.compile(r"[0-9a-f]{7,64}")
_SHARD = re.compile(r"(?P<set>.+)-\d{5}-of-(?P<total>\d{5}\..+)")


class DiskUsage(msgspec.Struct, frozen=True):
    """A model's size on disk, and the last access to its files (Unix seconds)."""

    size_bytes: int
    last_accessed: float


def cache_directory(environment: Mapping[str, str] | None = None) -> Path:
    """Return the hub's cache directory, according to huggingface_hub's variables."""
    env = os.environ if environment is None else environment
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if variable in env:
            return _expand(env[variable])
    if "HF_HOME" in env:
        return _expand(env["HF_HOME"]) / "hub"
    return _expand(env.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface" / "hub"


def repository_directory(repo_id: str) -> Path:
    """Return the directory of a repository in the cache, existing or not."""
    return cache_directory() / "--".join(("models", *repo_id.split("/")))


def cached(repo_id: str) -> Path | None:
    """Return the snapshot directory of ``refs/main``, or None if it is missing or incomplete.

    A snapshot is incomplete with a broken link, without ``config.json``, without weights, or with
    missing shards.
    """
    repository = repository_directory(repo_id)
    try:
        commit = (repository / "refs" / "main").read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
    if not _COMMIT.fullmatch(commit):
        return None
    snapshot = repository / "snapshots" / commit
    return snapshot if is_complete(snapshot) else None


def is_complete(snapshot: Path) -> bool:
    """Whether a snapshot directory contains a loadable model."""
    files = list(files_below(snapshot))
    return (
        (snapshot / "config.json").is_file()
        and all(file.exists() for file in files)
        and any(file.suffix in WEIGHTS for file in files)
        and _has_all_shards(files)
    )


def disk_usage(repo_id: str) -> DiskUsage | None:
    """Return the size of all cached revisions of a repository, counting each content once.

    None if nothing is cached. The same figures as huggingface_hub's cache scan.
    """
    blobs: dict[str, os.stat_result] = {}
    for file in files_below(repository_directory(repo_id) / "snapshots"):
        target = file.parent / file.readlink() if file.is_symlink() else file
        key = os.path.normpath(target)
        if key not in blobs and target.exists():
            blobs[key] = target.stat()
    if not blobs:
        return None
    return DiskUsage(
        size_bytes=sum(status.st_size for status in blobs.values()),
        last_accessed=max(status.st_atime for status in blobs.values()),
    )


def _has_all_shards(files: Iterable[Path]) -> bool:
    found: Counter[tuple[Path, str, str]] = Counter()
    for file in files:
        if match := _SHARD.fullmatch(file.name):
            found[file.parent, match["set"], match["total"]] += 1
    return all(count == int(total[:5]) for (_, _, total), count in found.items())


def _expand(text: str) -> Path:
    return Path(os.path.expandvars(text)).expanduser()
