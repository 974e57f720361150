"""SQLite's file: its owner's alone, and missed when it is gone."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from mataserver_database.failures import Busy

if TYPE_CHECKING:
    from pathlib import Path


class DatabaseFile:
    """The file that is opened. Nobody else may read it, nor those that SQLite makes beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with contextlib.suppress(OSError):  # told when it is opened
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.touch(mode=0o600)
        self._opened = _identity(path)

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
