"""A job's process holds still by itself once its server has been silent for too long.

A server that is cut off from the database stops its jobs' processes before another server may take
the jobs. One that itself stands still, such as one that a debugger stops, cannot. So it tells each
process how long the lease still lasts, after every renewal.
"""

from __future__ import annotations

import contextlib
import functools
import os
import select
import signal
import sys
import threading
import time
import uuid
from pathlib import Path

import msgspec

from mataserver_jobs.kinds import LeaseRenewed

_STEP = 1.0
"""Seconds between two looks at the clock: a wait does not count the time of a suspended machine."""
_READ_BYTES = 4096
_BOOT, _TIMES = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/time")


def now() -> float:
    """Return seconds of a clock that also runs while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@functools.cache
def clock() -> str:
    """Return which processes have the clock of ``now``: of one boot, and one time namespace.

    Where that cannot be known, nobody else has it.
    """
    try:
        return f"{_BOOT.read_text().strip()}.{_TIMES.stat().st_ino if _TIMES.exists() else 0}"
    except OSError:  # a sandbox, or a lack of file descriptors
        return f"unknown {uuid.uuid4()}"


def renewed_until(until: float) -> LeaseRenewed:
    """Return what a process is told whose lease lasts until a time of ``now``."""
    return LeaseRenewed(until - now(), clock(), until)


def _end_of(lease: LeaseRenewed) -> float:
    """Return when a lease ends of which this process reads now.

    What it reads may have waited: its threads were busy, or it was stopped, or the machine was
    suspended. Another machine's clock says nothing here.
    """
    counted = now() + lease.seconds
    return min(counted, lease.until) if lease.clock == clock() else counted


class LeaseGuard:
    """Stops this process, and those that it started, when the lease may be another server's.

    It continues when the server, which has renewed the lease by then, sends SIGCONT. ``pipe`` is
    where the server tells more.
    """

    def __init__(self, lease: LeaseRenewed, pipe: int) -> None:
        self._until = _end_of(lease)
        self._pipe = pipe
        self._rest = b""

    @classmethod
    def start(cls, lease: LeaseRenewed) -> None:
        """Watch the lease, in a thread that ends with the process."""
        if os.getpgrp() == os.getpid():  # else others than its own would be stopped
            guard = cls(lease, sys.stdin.fileno())  # not its buffer, whose lock is taken at exit
            threading.Thread(target=guard.watch, name="lease", daemon=True).start()

    def watch(self) -> None:
        """Stop the process whenever the lease has run out, until the server closes the pipe."""
        while True:
            left = self._until - now()
            if select.select([self._pipe], [], [], min(max(left, 0.0), _STEP))[0]:
                data = os.read(self._pipe, _READ_BYTES)
                if not data:
                    return
                self._take(data)
            elif left <= 0:
                os.killpg(0, signal.SIGSTOP)

    def _take(self, data: bytes) -> None:
        """Note the news in a part of the pipe's content; a line may begin in an earlier part."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            with contextlib.suppress(msgspec.DecodeError):  # the rest of one that is lost
                self._until = _end_of(msgspec.json.decode(line, type=LeaseRenewed))
