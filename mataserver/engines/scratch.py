"""Temporary directories of workers, and cleanup of those left by killed processes.

The owner holds a lock on its directory (flock(2)), shared with the processes forked from it. The
kernel releases it when the last of them exits, however it does, in whatever namespace.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

PREFIX = "mataserver-worker-"
_ATTEMPTS = 3


class ScratchDirectory:
    """A temporary directory; ``path`` is None if none can be created."""

    def __init__(self) -> None:
        """Create and lock the directory."""
        self.path: str | None = None
        self._lock_fd = -1
        with contextlib.suppress(OSError):
            for _ in range(_ATTEMPTS):
                path = tempfile.mkdtemp(prefix=PREFIX)
                lock_fd = _try_lock(path)
                if lock_fd is not None and os.path.isdir(path):  # noqa: PTH112 - text it is
                    self.path, self._lock_fd = path, lock_fd
                    return
                if lock_fd is not None:  # a concurrent sweep removed it before it was locked
                    os.close(lock_fd)

    def remove(self) -> None:
        """Remove the directory with its contents; idempotent."""
        if self.path is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock_fd)
            self.path = None

    def close_inherited(self) -> None:
        """Close the inherited descriptor of a sibling's directory, without removing it."""
        if self.path is not None:
            os.close(self._lock_fd)
            self.path = None


def remove_stale() -> None:
    """Remove the directories of processes that have exited."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # removed concurrently
            if path.lstat().st_uid == os.getuid() and (lock_fd := _try_lock(str(path))) is not None:
                shutil.rmtree(path, ignore_errors=True)
                os.close(lock_fd)


def _try_lock(path: str) -> int | None:
    """Return a descriptor that holds a directory's lock; None if another process holds it."""
    try:
        lock_fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock_fd)
        return None
    return lock_fd
