"""How busy this machine is: the use of its processors and of its memory, as Linux counts it.

Two files are read. A package that knows every system would cost the start more than this whole API.
"""

from __future__ import annotations

from pathlib import Path

PROC = Path("/proc")
_IDLE = slice(3, 5)
"""The times without work: those in which it had nothing to do, and those of waiting for a disk."""
_COUNTED = 8
"""The times of guest systems, which follow, are among the first ones already."""


class MachineUse:
    """Percentages of the machine's own. ``proc`` is where the kernel shows its files."""

    def __init__(self, proc: Path = PROC) -> None:
        self._proc = proc
        self._ticks = self._read_ticks()

    def processors(self) -> float | None:
        """Return how much of the processors was used since the last call, or since the start.

        None where the kernel does not tell.
        """
        before, self._ticks = self._ticks, self._read_ticks()
        if before is None or self._ticks is None:
            return None
        idle, total = (new - old for new, old in zip(self._ticks, before, strict=True))
        return _percent(idle, total) if total > 0 else 0.0

    def memory(self) -> float | None:
        """Return how much of the memory is in use, what can be taken back at once left out.

        None where the kernel does not tell.
        """
        try:
            lines = (self._proc / "meminfo").read_text(encoding="ascii").splitlines()
            size = {name: int(rest.split()[0]) for name, rest in (s.split(":", 1) for s in lines)}
            return _percent(size["MemAvailable"], size["MemTotal"])
        except (OSError, LookupError, ValueError, ZeroDivisionError):
            return None

    def _read_ticks(self) -> tuple[int, int] | None:
        """Return the processors' times without work and in all, since the machine started."""
        try:
            with (self._proc / "stat").open(encoding="ascii") as file:
                times = [int(each) for each in file.readline().split()[1 : 1 + _COUNTED]]
        except (OSError, ValueError):
            return None
        return (sum(times[_IDLE]), sum(times)) if times else None


def _percent(free: int, total: int) -> float:
    """Return what is in use; a time without work that is set back a little does not exceed 100."""
    return min(100.0, max(0.0, round(100 * (1 - free / total), 1)))
