"""Which gateways share a SQLite database: processes of one machine, each with a locked file.

The lock goes with its process, however that ends. So nothing has to be written while no requests
arrive, and a gateway that was killed does not count from that moment on.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


_HIDDEN = "."
_LEFT_SECONDS = 60.0
"""After so long a file that is not yet locked is one of a gateway that was killed as it began."""
_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


class PresenceFile:
    """This gateway's file below ``folder``, and a look at those of others. Everything blocks."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._path = folder / name
        self._file: int | None = None
        self._others: int | None = None
        self._is_closed = False

    def begin(self) -> None:
        """Make the file; others see it only once it is locked.

        Where it cannot be made, the next look at others tries again. The database is in the same
        folder: on a disk that is full it tells more.
        """
        hidden = self._folder / f"{_HIDDEN}{self._path.name}"
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            file = os.open(hidden, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                hidden.rename(self._path)
            except BaseException:
                os.close(file)
                hidden.unlink(missing_ok=True)
                raise
            self._file = file

    def others(self) -> int:
        """Return how many other gateways run; remove the files of those that do not.

        Without file descriptors, or memory, it is as many as the last time: one that believed to be
        alone would grant all of each quota. Raises ``OSError`` where that is not known.
        """
        if self._file is None and not self._is_closed:
            self.begin()
        try:
            self._others = sum(_is_locked(each) for each in self._candidates())
        except OSError as error:
            if error.errno not in _SHORTAGES:
                return 0
            if self._others is None:
                raise
        return self._others

    def close(self) -> None:
        """Remove the file."""
        self._is_closed = True
        if self._file is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = None

    def _candidates(self) -> Iterator[Path]:
        """Yield the other gateways' files, and hidden ones that were left."""
        old = time.time() - _LEFT_SECONDS
        for path in list(self._folder.iterdir()):
            if path.name.startswith(_HIDDEN):
                with contextlib.suppress(FileNotFoundError):
                    if path.stat().st_mtime < old:
                        yield path
            elif path != self._path:
                yield path


def _is_locked(path: Path) -> bool:
    """Whether a gateway has a file; one that nobody has is removed."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _SHORTAGES:
            raise
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two may look at the same time
        path.unlink(missing_ok=True)
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno in _SHORTAGES:
            raise
        return False  # a file system without locks
    finally:
        os.close(file)
    return False
