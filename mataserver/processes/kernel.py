"""Kernel attributes of a process: death signal, orphans, privileges, OOM priority.

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


def die_with_parent(parent: int) -> None:
    """Kill this process when its parent, with that pid, exits; exit now if it already has."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it exited before the death signal was set
        os._exit(1)


def survive_parent() -> None:
    """Undo ``die_with_parent``, once the parent's end is detected otherwise."""
    _prctl(_PR_SET_PDEATHSIG, 0)


def adopt_orphans() -> None:
    """Reparent orphaned descendants to this process instead of init."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def set_no_new_privileges() -> None:
    """Prevent this process and its descendants from gaining privileges, as by setuid."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def hide_memory() -> None:
    """Protect this process's memory and environment from other processes of the same user.

    Reset by exec. Root, and processes with CAP_SYS_PTRACE, are not affected.
    """
    _prctl(_PR_SET_DUMPABLE, 0)


def set_oom_score(score: int) -> None:
    """Set the OOM score (up to 1000): higher ones are killed first when memory runs out."""
    with contextlib.suppress(OSError):  # a sandbox may forbid it
        Path("/proc/self/oom_score_adj").write_text(str(score), encoding="ascii")


def process_parents() -> Iterator[tuple[int, int]]:
    """Yield every process, including zombies, with its parent's pid."""
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it has exited since
                status = Path(entry.path, "stat").read_bytes()
                yield int(entry.name), int(status.rpartition(b")")[2].split()[1])


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, int(value), 0, 0, 0)
