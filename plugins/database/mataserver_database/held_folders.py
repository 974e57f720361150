"""Folders of files that belong to rows to come: held by a server while it fills them.

The lock goes with its process, however that ends. So a folder that nobody holds any more, of this
boot of this machine, was left by a server that was killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path

UNKNOWN_SECONDS = 86_400.0
"""How old a folder must be to be taken for left where no lock tells whether a server has it: one of
another machine, whose locks need not be seen here, and whose clock may differ."""
UNHELD_SECONDS = 60.0
"""How old one of this machine must be: it is locked only once it is there."""
_BOOT = Path("/proc/sys/kernel/random/boot_id")


def boot() -> str:
    """Return the id of this machine's boot: that of all processes which see each other's locks."""
    return _BOOT.read_text(encoding="ascii").strip()


def hold(folder: Path) -> int:
    """Lock a folder, until the descriptor that is returned is closed or the process ends."""
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    with contextlib.suppress(OSError):  # a file system without locks
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return held


def is_left(folder: Path, made_in: str) -> bool:
    """Whether a folder is nobody's; ``made_in`` is the boot that it was made in.

    One that a server of this machine holds is that server's, however old it seems: the clock may
    have been set. Raises ``FileNotFoundError`` for one that is gone.
    """
    age = time.time() - folder.stat().st_mtime
    if abs(age) <= UNHELD_SECONDS:  # its server may be about to lock it, which a look would prevent
        return False
    is_held = _is_held(folder) if made_in == boot() else None
    return age > UNKNOWN_SECONDS if is_held is None else not is_held


def _is_held(folder: Path) -> bool | None:
    """Whether a server holds a folder; None where no lock tells."""
    try:
        looked_at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except PermissionError:  # another user's
        return None
    except OSError:  # no descriptors are left, or the disk fails: another look may tell
        return True
    try:
        fcntl.flock(looked_at, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return None
    finally:
        os.close(looked_at)
    return False
