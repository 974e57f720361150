"""A process and its descendants: what they use, and sleep while others are measured."""

from __future__ import annotations

import contextlib
import signal
import time
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator

GRACE = 10.0
_SCHEDULED = 2
"""The kernel's CPUCLOCK_SCHED (linux/posix-timers.h)."""


def clock_of(pid: int) -> int:
    """Return the clock of a process's CPU time, as clock_getcpuclockid(3) does."""
    return ~pid << 3 | _SCHEDULED


class Tree:
    """A process and its descendants."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self.peak = 0.0

    def processes(self) -> list[psutil.Process]:
        """Return those that live now, the root first."""
        try:
            return [self._root, *self._root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def cpu(self) -> float:
        """Return their CPU seconds so far.

        By each process's own clock, in nanoseconds: the times in ``/proc`` go by 10 ms.
        """
        total = 0.0
        for process in self.processes():
            with contextlib.suppress(OSError):
                total += time.clock_gettime(clock_of(process.pid))
        return total

    def sample_memory(self) -> float:
        """Return their memory in MB, shared pages by their share, and keep the most there was."""
        total = 0
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                total += process.memory_full_info().pss
        self.peak = max(self.peak, total / 1e6)
        return total / 1e6

    def _signal(self, number: signal.Signals) -> None:
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def sleep(self) -> None:
        """Stop them: a server that polls while it is idle costs the next one nothing."""
        self._signal(signal.SIGSTOP)

    @contextlib.contextmanager
    def awake(self) -> Iterator[None]:
        """Let them run until the context ends."""
        self._signal(signal.SIGCONT)
        try:
            yield
        finally:
            self.sleep()

    def end(self) -> None:
        """End them all: the root is asked first, whoever is left after a while is killed."""
        everyone = self.processes()
        self._signal(signal.SIGCONT)
        with contextlib.suppress(psutil.NoSuchProcess):
            self._root.terminate()
        psutil.wait_procs(everyone[:1], GRACE)
        for process in everyone:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(everyone, GRACE)


class Sleepless(Tree):
    """Processes that stay awake: Triton's backend crashes where its own were stopped."""

    def sleep(self) -> None:
        """Let them run."""
