"""Which gateways share a SQLite database: processes of one machine, each with a locked file.

The lock goes with its process, however that ends. So nothing has to be written while no requests
arrive, and a gateway that was killed does not count from that moment on.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class PresenceFile:
    """This gateway's file below ``folder``, and a look at those of others. Everything blocks."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._path = folder / name
        self._file: int | None = None

    def begin(self) -> None:
        """Make the file; others see it only once it is locked. Nothing where it cannot be made.

        The database is in the same folder: on a disk that is full it tells more.
        """
        hidden = self._folder / f".{self._path.name}"
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file = os.open(hidden, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            hidden.rename(self._path)

    def others(self) -> int:
        """Return how many other gateways run; remove the files of those that do not."""
        try:
            files = list(self._folder.iterdir())
        except OSError:
            return 0
        others = (each for each in files if each != self._path and not each.name.startswith("."))
        return sum(_is_locked(each) for each in others)

    def close(self) -> None:
        """Remove the file."""
        if self._file is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = None


def _is_locked(path: Path) -> bool:
    """Whether a gateway has a file; one that nobody has is removed."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two may look at the same time
        path.unlink(missing_ok=True)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(file)
    return False
