"""Detects a full disk, and has the message for a job's owner."""

from __future__ import annotations

import errno

FULL = "The disk is full; restart the job once there is room"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def is_full(error: OSError) -> bool:
    """Whether a write failed because there is no room, or none that is allowed."""
    return error.errno in _FULL
