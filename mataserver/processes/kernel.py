"""What the kernel is told about a process: with whom it ends, what it may become, who goes first.

Linux: prctl(2), proc(5).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38


def die_with(parent: int) -> None:
    """Have this process killed when its parent, which has that id, ends; now if it has already."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before it could be watched
        os._exit(1)


def survive_parent() -> None:
    """Undo ``die_with``: this process learns of its parent's end in another way."""
    _prctl(_PR_SET_PDEATHSIG, 0)


def adopt_orphans() -> None:
    """Have what a descendant leaves behind become a child of this process, and not of init."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def give_up_privileges() -> None:
    """Let no program that this process or a descendant runs have more rights: no setuid."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def hide_memory() -> None:
    """Keep other processes of the same user from this one's memory and environment.

    Undone by running another program. Root sees everything; so does who may trace every process.
    """
    _prctl(_PR_SET_DUMPABLE, 0)


def be_killed_first(score: int) -> None:
    """Go before processes of a lower ``score`` (up to 1000) when memory runs out."""
    with contextlib.suppress(OSError):  # a sandbox may forbid it
        Path("/proc/self/oom_score_adj").write_text(str(score), encoding="ascii")


def parents() -> Iterator[tuple[int, int]]:
    """Yield every process, also one that ended and was not waited for, and its parent."""
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it is gone meanwhile
                status = Path(entry.path, "stat").read_bytes()
                yield int(entry.name), int(status.rpartition(b")")[2].split()[1])


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, int(value), 0, 0, 0)
