"""The holder of a job: a server's process, identified uniquely across machines and time."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from mataserver_database import boot

_PIDS = Path("/proc/self/ns/pid")


def current() -> str:
    """Return the name of this process: host, where its id counts, the id, and when it started."""
    return f"{socket.gethostname()}:{_namespace()}:{os.getpid()}:{_started(os.getpid())}"


def is_dead(holder: str) -> bool:
    """Whether a holder is known to be gone: its id would be seen here, and is not.

    Nothing is known of processes of other machines, of containers beside this one, or of before
    this boot: machines and containers may have one name, as images give them. Their leases decide.
    """
    _, namespace, process, started = ["", "", "", "", *holder.split(":")][-4:]
    if namespace != _namespace():
        return False
    return not process.isdigit() or _started(int(process)) != started


def _namespace() -> str:
    """Return which processes see each other's ids: those of one boot, and of one PID namespace."""
    return f"{boot()}.{_PIDS.stat().st_ino}"


def _started(pid: int) -> str:
    """Return when a process started, in clock ticks since the boot; empty when it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]
