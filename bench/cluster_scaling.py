"""What nodes add: a model of 50 ms on one node of a Ray cluster and on four, one processor each.

Run as ``python bench/cluster_scaling.py [ROUNDS]`` (default 3). It starts a head without room and
five nodes on this machine, and ends them by their own processes. A server with one worker and one
with four are asked in turn for five seconds, by three times as many connections as it has workers.
The model sleeps: what is missing to four times as many answers is the way between them. So is what
other work on this machine takes: its load is printed.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import tempfile
from pathlib import Path

import contestants
import load
from generator import Order
from question import JPEG, Bodies, Question
from raylets import cluster

ROUNDS, SECONDS, WORKERS = 3, 5.0, (1, 4)
PATH = "/v1/infer?model=faulty&seconds=0.05"


def ask(server: contestants.Server, body: str, connections: int, seconds: float) -> load.Load:
    """Ask a server that is awake until the time is over."""
    order = Order(server.base + PATH, "POST", JPEG, body, '"label"', 1, connections, seconds)
    with server.tree.awake():
        return load.put(order)


def main() -> None:
    """Measure and print."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        stack.enter_context(cluster(sum(WORKERS), cpu=1))
        bodies = Bodies(Path(folder))
        body = str(bodies.path(Question("noop", "raw")))
        servers = {}
        for workers in WORKERS:
            servers[workers] = contestants.ours(bodies, "ray", workers)
            stack.callback(servers[workers].close)
            once = Order(servers[workers].base + PATH, "POST", JPEG, body, '"label"', 1, 1, 0.0, 1)
            with servers[workers].tree.awake():
                load.put(once)  # loads the workers
        ratios = []
        for _ in range(rounds):
            rates, middles = [], []
            for workers, server in servers.items():
                found = ask(server, body, 3 * workers, SECONDS).outcome
                rates.append(found.requests / found.seconds)
                middles.append(found.p50)
            ratios.append(rates[1] / rates[0])
            print(
                f"{rates[0]:.1f} and {rates[1]:.1f} answers a second = {ratios[-1]:.2f}; "
                f"p50 {middles[0]:.1f} and {middles[1]:.1f} ms; load {os.getloadavg()[0]:.1f}",
                flush=True,
            )
        print(f"four nodes over one: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
