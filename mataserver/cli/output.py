"""What a command prints or draws, where nothing more can be written."""

from __future__ import annotations

import errno
import os
import sys

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


def is_full(error: OSError) -> bool:
    """Whether the output cannot take more: then there is no name of a file that was opened."""
    return error.filename is None and error.errno in _FULL


def discard() -> None:
    """Drop what is not written yet: Python would try again at its end, and fail once more."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
