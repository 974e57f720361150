"""What a node costs: the engine ``ray`` over the engine ``process``, by latency and by CPU.

Run as ``python bench/cluster.py [ROUNDS]`` (default 8). It starts a head and a node on this
machine, or takes the cluster of ``RAY_ADDRESS``, started with ``PYTHONPATH=bench``. Both servers
are asked in turn (A B B A in every round). CPU is that of the server's whole process tree, the
broker too, and of its workers on the cluster; Ray's own daemons are left out. Of the cluster of
``RAY_ADDRESS`` every worker on this machine counts, whoever's it is. A row is the median of the
rounds.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

import contestants
from contestants import Effort
from question import Bodies, Question
from raylets import cluster
from tree import Tree, clock_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from contestants import Server

ROUNDS = 8
CASES = {
    "raw, 1 conn.": (Question("noop", "raw"), 1, Effort(0, 200)),
    "raw, 16 conn.": (Question("noop", "raw"), 16, Effort(0, 800)),
    "12 megapixels, raw, 1 conn.": (Question("noop", "raw", large=True), 1, Effort(0, 15)),
    "stream, window 1": (Question("noop", "frames"), 1, Effort(0, 200)),
    "stream, window 8": (Question("noop", "frames"), 8, Effort(0, 400)),
}


class Spread(Tree):
    """A server's processes, and the workers that are on the cluster."""

    def __init__(self, pid: int, workers: Callable[[], Iterable[psutil.Process]]) -> None:
        super().__init__(pid)
        self._workers = workers

    def cpu(self) -> float:
        """Return their CPU seconds so far."""
        total = super().cpu()
        for process in self._workers():
            with contextlib.suppress(psutil.Error, OSError):
                if any("RayNodeRunner" in word for word in process.cmdline()):
                    total += time.clock_gettime(clock_of(process.pid))
        return total


def main() -> None:
    """Measure and print."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        workers = stack.enter_context(cluster(nodes=1, cpu=4))
        bodies = Bodies(Path(folder))
        # As many as the process engine decodes on: a worker of a cluster has what it asks for.
        os.environ["BENCH_CPU"] = str(os.cpu_count() or 1)
        servers: dict[str, Server] = {}
        for engine in ("process", "ray"):
            servers[engine] = contestants.ours(bodies, engine)
            stack.callback(servers[engine].close)
        servers["ray"].tree = Spread(servers["ray"].process.pid, workers)
        for name, (question, connections, effort) in CASES.items():
            p50: dict[str, list[float]] = {"process": [], "ray": []}
            cpu: dict[str, list[float]] = {"process": [], "ray": []}
            for _ in range(rounds + 1):
                for engine in ("process", "ray", "ray", "process"):
                    found = servers[engine].measure(question, connections, effort)
                    p50[engine].append(found.p50)
                    cpu[engine].append(found.cpu)
            middles = [
                statistics.median(each[engine][2:])  # the first round loads and warms up
                for each in (p50, cpu)
                for engine in ("process", "ray")
            ]
            print(
                f"{name}: p50 {middles[0]:.2f} and {middles[1]:.2f} ms = "
                f"{middles[1] / middles[0]:.2f}; CPU {middles[2]:.2f} and {middles[3]:.2f} ms = "
                f"{middles[3] / middles[2]:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
