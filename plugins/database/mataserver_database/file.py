"""SQLite's file: its owner's alone, and missed when it is gone."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mataserver import MataError
from mataserver_database.failures import Busy

if TYPE_CHECKING:
    from pathlib import Path


class DatabaseFile:
    """The file that is opened. Only its owner may read it and those that SQLite makes beside it."""

    def __init__(self, path: Path) -> None:
        """Make the file if it is missing. Raises ``MataError`` where it cannot be written."""
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise MataError(
                "The database's file cannot be written: data_dir must be a directory that can be",
                hint=f"{path}: {error.strerror}",
            ) from None
        self._opened = _identity(path)

    def is_new(self) -> bool:
        """Whether nothing was written yet: the first thing is that there is a write-ahead log.

        The file must not be opened for a look: closing it would drop the locks that SQLite holds on
        it for this process (https://sqlite.org/howtocorrupt.html, section 2.2).
        """
        return self.path.stat().st_size == 0

    def check(self) -> None:
        """Raise ``Busy`` where the path leads to another file than what was opened, or to none.

        What is open would take all that is written, and lose it when the server ends.
        """
        if self._opened is not None and _identity(self.path) != self._opened:
            raise Busy("The database's file was removed or replaced: restart the server")


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what is the same for the same file alone; None for none that can be looked at."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
