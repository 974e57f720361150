"""Files that a power failure leaves whole: the old content or the new one, never none."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from mataserver import sync


def sync_all(folder: Path) -> None:
    """Have the files below a folder, their names and its own on the disk; not those of links.

    A file that goes meanwhile, or that nobody may read, is left out: a job's tools may make such.
    """
    for place, _, names in os.walk(folder):
        for path in (Path(place, name) for name in names):
            with contextlib.suppress(FileNotFoundError, PermissionError):
                if path.is_file() and not path.is_symlink():
                    sync(path)
        with contextlib.suppress(FileNotFoundError, PermissionError):
            sync(Path(place))
    sync(folder.parent)


def replace(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all; it is on the disk when this returns."""
    fresh = path.with_suffix(".new")
    fresh.write_bytes(content)
    sync(fresh)  # first: else the disk may have the new name before the content, an empty file
    fresh.replace(path)
    sync(path.parent)
