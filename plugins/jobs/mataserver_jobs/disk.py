"""What the disk says when it takes no more."""

from __future__ import annotations

import errno

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def is_full(error: OSError) -> bool:
    """Whether a write failed because there is no room, or none that is allowed."""
    return error.errno in _FULL
