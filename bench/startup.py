"""What the command line and an idle server cost: with every plugin that is installed."""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import psutil

from contestants import free_port

BYTE_CODE = Path(__file__).resolve().parents[1] / "build" / "bench-bytecode"


@dataclass(frozen=True)
class Figure:
    """A median and the most that it is to be, in a unit."""

    name: str
    value: float
    limit: float
    unit: str

    @property
    def holds(self) -> bool:
        """Whether it is within its limit."""
        return self.value <= self.limit


def environment() -> dict[str, str]:
    """Return variables with which byte code is kept, as pip keeps that of what it installs."""
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPYCACHEPREFIX": str(BYTE_CODE)}


def command(*arguments: str) -> float:
    """Return the seconds that a ``mataserver`` command takes."""
    begun = time.perf_counter()
    program = [sys.executable, "-m", "mataserver", *arguments]
    subprocess.run(program, check=True, stdout=subprocess.DEVNULL, env=environment())
    return time.perf_counter() - begun


def start() -> tuple[float, float]:
    """Return the seconds from the start to the first 200, and the resident MB then."""
    port, begun = free_port(), time.perf_counter()
    program = [sys.executable, "-m", "mataserver", "serve", "--port", str(port)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(program, env=environment(), **quiet)
    try:
        while True:
            with contextlib.suppress(OSError):
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/health") as answer:
                    answer.read()
                break
            if process.poll() is not None:
                raise RuntimeError("the server ended")
            time.sleep(0.002)
        seconds = time.perf_counter() - begun
        return seconds, psutil.Process(process.pid).memory_info().rss / 1e6
    finally:
        process.terminate()
        process.wait()


def figures(rounds: int) -> list[Figure]:
    """Measure ``rounds`` times and return the medians."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MATA_SERVER_DATA_DIR"] = folder
        start()
        taken = [(command("--version"), command("list"), *start()) for _ in range(rounds)]
        del os.environ["MATA_SERVER_DATA_DIR"]
    version, listing, first, resident = map(statistics.median, zip(*taken, strict=True))
    return [
        Figure("`mataserver --version`", version, 0.2, "s"),
        Figure("`mataserver list`", listing, 0.25, "s"),
        Figure("start to the first 200", first, 0.5, "s"),
        Figure("resident with nothing loaded", resident, 70, "MB"),
    ]
