"""What the command line and an idle server cost: with every plugin, and with each guest.

Run as ``python bench/startup.py [--rounds N]`` it prints what each guest adds to a start, in turn
round by round: seconds and CPU seconds until ``GET /health`` was answered, and resident MB then.
The tables are there already, as they are at every start but the first.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import psutil

from contestants import free_port

BYTE_CODE = Path(__file__).resolve().parents[1] / "build" / "bench-bytecode"

BASE = ("console",)
GUESTS: dict[str, tuple[tuple[str, ...], tuple[str, ...] | None]] = {
    "the core alone": ((), ()),
    "console": ((), BASE),
    "database": (BASE, (*BASE, "database")),
    "accounts": ((*BASE, "database"), (*BASE, "database", "accounts")),
    "jobs": ((*BASE, "database"), (*BASE, "database", "jobs")),
    "fleet": ((*BASE, "database", "accounts"), (*BASE, "database", "accounts", "fleet")),
    "reconstruct": ((*BASE, "database", "jobs"), (*BASE, "database", "jobs", "reconstruct")),
    "sam": (BASE, (*BASE, "sam")),
    "openai, oip and the page": ((), (*BASE, "openai", "oip")),
    "every plugin": (BASE, None),
}
"""What is started, each with what it is compared with: the same without the guest."""


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


class Start(NamedTuple):
    """Seconds and CPU seconds to the first answer of ``GET /health``, and the resident MB then."""

    seconds: float
    cpu: float
    resident: float


def start(folder: str, plugins: tuple[str, ...] | None = None) -> Start:
    """Start a server on a data directory, with all plugins or some, and end it."""
    port, begun = free_port(), time.perf_counter()
    config = configuration(folder, plugins)
    program = [sys.executable, "-m", "mataserver", "serve", "--port", str(port), "--config", config]
    there = environment() | {"MATA_SERVER_DATA_DIR": folder}
    process = subprocess.Popen(
        program, env=there, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while True:
            with contextlib.suppress(OSError):
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as answer:
                    answer.read()
                break
            if process.poll() is not None:
                raise RuntimeError("the server ended")
            time.sleep(0.002)
        seconds = time.perf_counter() - begun
        return Start(
            seconds, running_time(process.pid), psutil.Process(process.pid).memory_info().rss / 1e6
        )
    finally:
        process.terminate()
        process.wait()


def configuration(folder: str, plugins: tuple[str, ...] | None) -> str:
    """Write which plugins are switched off; return the file."""
    every = {
        (point.dist.name if point.dist is not None else point.name).removeprefix("mataserver-")
        for point in importlib.metadata.entry_points(group="mataserver")
    }
    off = [] if plugins is None else sorted(every - set(plugins))
    file = Path(folder) / "mataserver.yaml"
    file.write_text(json.dumps({"plugins": {"disabled": off}}))
    return str(file)


def running_time(pid: int) -> float:
    """Return the CPU seconds of a process: the scheduler's own count, in nanoseconds."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(each.read_text().split()[0]) for each in threads) / 1e9


def figures(rounds: int) -> list[Figure]:
    """Measure ``rounds`` times and return the medians."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MATA_SERVER_DATA_DIR"] = folder
        start(folder)
        taken = [(command("--version"), command("list"), *start(folder)) for _ in range(rounds)]
        del os.environ["MATA_SERVER_DATA_DIR"]
    version, listing, first, _cpu, resident = map(statistics.median, zip(*taken, strict=True))
    return [
        Figure("`mataserver --version`", version, 0.2, "s"),
        Figure("`mataserver list`", listing, 0.25, "s"),
        Figure("start to the first 200", first, 0.5, "s"),
        Figure("resident with nothing loaded", resident, 70, "MB"),
    ]


def guests(rounds: int) -> dict[tuple[str, ...] | None, Start]:
    """Start every set of plugins ``rounds`` times, in turn; return the medians."""
    taken: dict[tuple[str, ...] | None, list[Start]] = {chosen: [] for _, chosen in GUESTS.values()}
    with tempfile.TemporaryDirectory() as folder:
        for index, chosen in enumerate(taken):  # the first start of each makes tables and byte code
            Path(folder, str(index)).mkdir()
            start(f"{folder}/{index}", chosen)
        for _ in range(rounds):
            for index, (chosen, found) in enumerate(taken.items()):
                found.append(start(f"{folder}/{index}", chosen))
    return {
        chosen: Start(*map(statistics.median, zip(*found, strict=True)))
        for chosen, found in taken.items()
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    found = guests(parser.parse_args().rounds)
    print("| with | start, s | CPU, s | resident, MB | adds CPU, s | adds MB |")
    print("|---|---|---|---|---|---|")
    for name, (without, chosen) in GUESTS.items():
        own, before = found[chosen], found[without]
        cells = [f"{own.seconds:.2f}", f"{own.cpu:.2f}", f"{own.resident:.1f}"]
        more = [f"{own.cpu - before.cpu:.2f}", f"{own.resident - before.resident:.1f}"]
        print(f"| {' | '.join([name, *cells, *(more if chosen else ['', ''])])} |")
    print(f"\nLoad average {os.getloadavg()[0]:.1f}, median of the rounds.")


if __name__ == "__main__":
    main()
