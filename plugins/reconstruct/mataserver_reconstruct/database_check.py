"""Looks whether a COLMAP database is damaged: ``python database_check.py FILE``.

In a process of its own, as the package's must not load a second SQLite. This file imports nothing
of this package, so that it starts within a tenth of a second.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

DAMAGED = 3
"""The exit status for a damaged one."""
_ERROR_CLASS = 0xFF  # of SQLite's longer codes


def main(file: str) -> int:
    """Return the exit status.

    Whatever else keeps it from being read, as a full disk, a lack of memory or of rights, says
    nothing about its content. Nothing is written, but what SQLite's readers share.
    """
    import sqlite3  # here, as the package imports this module for its name and status alone

    damage = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
    address = f"{Path(file).absolute().as_uri()}?mode=ro"
    try:
        with contextlib.closing(sqlite3.connect(address, uri=True)) as opened:
            whole = opened.execute("PRAGMA quick_check(1)").fetchone() == ("ok",)
    except sqlite3.Error as error:
        whole = error.sqlite_errorcode & _ERROR_CLASS not in damage
    return 0 if whole else DAMAGED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
