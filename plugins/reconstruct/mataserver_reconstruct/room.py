"""Whether a reconstruction failed because the disk is full."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mataserver_jobs import disk

if TYPE_CHECKING:
    from pathlib import Path

FULL = "the disk is full; the same command goes on with it once there is room"
"""What the command says."""


def is_missing(error: Exception, folder: Path) -> bool:
    """Whether an error of writing into a folder is for want of room.

    COLMAP reports that it cannot write, and not why.
    """
    return (isinstance(error, OSError) and disk.is_full(error)) or disk.is_filled(folder)
