"""What a command prints or draws, where nothing more can be written."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import traceback
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


class FullError(OSError):
    """A drawing cannot be written."""


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Within it only the output is written. Raises ``FullError`` if that cannot take more."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise FullError(error.errno, error.strerror) from error
        raise


def is_full(error: OSError) -> bool:
    """Whether it is the output that cannot take more, and no other file.

    Such errors name no file. But click, which prints, opens none of its own.
    """
    if isinstance(error, FullError):
        return True
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    within = str(frames[-1].f_globals.get("__name__")) if frames else ""
    return error.errno in _FULL and within.partition(".")[0] == "click"


def discard() -> None:
    """Drop what is not written yet: Python would try again at its end, and fail once more."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
