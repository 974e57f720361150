"""Temporary directories of workers, and what is left of those that nobody could remove.

Whoever has one holds a lock on it (flock(2)), and so do the processes that are forked from it: the
kernel lets go of it when the last of them has ended, however it ended, in whatever namespace.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

PREFIX = "mataserver-worker-"
_TRIES = 3


class Scratch:
    """A temporary directory; ``path`` is None where there is no place for any."""

    def __init__(self) -> None:
        """Make the directory, and lock it."""
        self.path: str | None = None
        self._held = -1
        with contextlib.suppress(OSError):
            for _ in range(_TRIES):
                path = tempfile.mkdtemp(prefix=PREFIX)
                held = _locked(path)
                if held is not None and os.path.isdir(path):  # noqa: PTH112 - text it is
                    self.path, self._held = path, held
                    return
                if held is not None:  # a sweep took it between these two lines
                    os.close(held)

    def remove(self) -> None:
        """Remove it with all that is in it; once is enough."""
        if self.path is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._held)
            self.path = None

    def let_go(self) -> None:
        """Close what was inherited of another process's directory, which stays that one's."""
        if self.path is not None:
            os.close(self._held)
            self.path = None


def sweep() -> None:
    """Remove the directories of processes that are gone."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # it goes by itself just now
            if path.lstat().st_uid == os.getuid() and (held := _locked(str(path))) is not None:
                shutil.rmtree(path, ignore_errors=True)
                os.close(held)


def _locked(path: str) -> int | None:
    """Return a descriptor that holds a directory's lock; None where another has it."""
    try:
        held = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(held)
        return None
    return held
