"""The holder of a job: a server's process, identified uniquely across machines and time."""

from __future__ import annotations

import os
import socket
from pathlib import Path

_BOOT = Path("/proc/sys/kernel/random/boot_id")


def current() -> str:
    """Return the name of this process: host, boot, process id and when it started."""
    return f"{_machine()}:{os.getpid()}:{_started(os.getpid())}"


def is_dead(holder: str) -> bool:
    """Whether a holder is known to be gone: of this machine, and its process is not there.

    Nothing is known of other machines' processes; their leases decide.
    """
    machine, _, process = holder.rpartition(":")[0].rpartition(":")
    if machine.partition(":")[0] != socket.gethostname():
        return False
    if machine != _machine():
        return True  # the machine has rebooted since
    started = holder.rpartition(":")[2]
    return not process.isdigit() or _started(int(process)) != started


def boot() -> str:
    """Return the id of this machine's boot: that of all processes which see each other's locks."""
    return _BOOT.read_text(encoding="ascii").strip()


def _machine() -> str:
    return f"{socket.gethostname()}:{boot()}"


def _started(pid: int) -> str:
    """Return when a process started, in clock ticks since the boot; empty when it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]
