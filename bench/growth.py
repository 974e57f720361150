"""What a soak watches: memory, descriptors, processes, files and the log of a server."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from pathlib import Path

    from soak import Tally

SAMPLE_EVERY = 5.0
WARM_UP = 0.25
"""Of the time: until then anything may grow."""
MOST = {"server": 8e6, "largest worker": 8e6, "descriptors": 12, "processes": 4, "files": 12}
"""How much each may grow from the first third of the rest to the last: bytes, or things."""
LINES_A_SECOND = 1.0
"""Of warnings and errors, whatever clients do."""


class Growth:
    """Samples of a server that should not grow."""

    def __init__(self, server: psutil.Process, folder: Path) -> None:
        self.server = server
        self._folder = folder
        self.begun = time.monotonic()
        self._times: list[float] = []
        self._values: dict[str, list[float]] = {name: [] for name in MOST}

    def now(self) -> dict[str, float]:
        """Return how much there is of each now."""
        children = self.server.children(recursive=True)
        memory = [_rss(process) for process in children]
        return {
            "server": float(self.server.memory_info().rss),
            "largest worker": float(max(memory, default=0)),
            "descriptors": float(self.server.num_fds()),
            "processes": float(len(children)),
            "files": float(sum(1 for path in self._folder.rglob("*") if path.is_file())),
        }

    def sample(self, tally: Tally) -> None:
        """Take a sample and print it."""
        found = self.now()
        self._times.append(time.monotonic() - self.begun)
        for name, value in found.items():
            self._values[name].append(value)
        told = "  ".join(f"{name} {_told(name, value)}" for name, value in found.items())
        counts = f"good {tally.good.total():7d}  bad {tally.bad.total():4d}"
        print(f"{self._times[-1]:6.0f} s  {told}  {counts}", flush=True)

    def grown(self, name: str) -> float:
        """Return by how much the last third after the warm-up is above the first."""
        values = self._values[name][int(len(self._times) * WARM_UP) :]
        third = len(values) // 3
        if not third:
            return 0.0
        return statistics.median(values[-third:]) - statistics.median(values[:third])

    def verdict(self, log: str) -> list[str]:
        """Print how each has grown; return what has grown too much."""
        found = []
        for name, most in MOST.items():
            grown = self.grown(name)
            print(f"{name}: {_told(name, grown)} more in the last third than in the first")
            found += [name] if grown > most else []
        seconds = time.monotonic() - self.begun
        lines = sum(" INFO " not in line for line in log.splitlines()) / seconds
        print(
            f"log: {lines:.2f} lines of warnings a second, {len(log) / seconds:.0f} bytes a second"
        )
        return found + (["log"] if lines > LINES_A_SECOND else [])


def _told(name: str, value: float) -> str:
    return f"{value / 1e6:.1f} MB" if name in {"server", "largest worker"} else f"{value:.0f}"


def _rss(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0
