"""Detects a full disk, and has the message for a job's owner."""

from __future__ import annotations

import errno
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

FULL = "The disk is full; restart the job once there is room"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_ROOM = 4_000_000  # bytes: a write of less may have found no room


def is_full(error: OSError) -> bool:
    """Whether a write failed because there is no room, or none that is allowed."""
    return error.errno in _FULL


def is_filled(folder: Path) -> bool:
    """Whether the disk of a folder has hardly any room: native code dies of it without a word."""
    return shutil.disk_usage(folder).free < _ROOM
