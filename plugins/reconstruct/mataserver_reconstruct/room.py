"""Whether a reconstruction failed because the disk is full."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from mataserver_jobs import disk

if TYPE_CHECKING:
    from pathlib import Path

_ROOM = 4_000_000  # bytes: COLMAP reports that it cannot write, and not why


def is_missing(error: Exception, folder: Path) -> bool:
    """Whether an error of writing into a folder is for want of room."""
    full = isinstance(error, OSError) and disk.is_full(error)
    return full or shutil.disk_usage(folder).free < _ROOM
