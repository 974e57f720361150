"""What a change costs: the CPU per request of the working tree over that of another revision.

Run as ``python bench/against.py REVISION [--rounds 15] [--requests 60] [CASE ...]``; a case is
chosen by a part of its name, and REVISION may be a folder with another tree. The server of each
runs from a copy, with its own ``bench/ours.py``, in the environment of this program; both are asked
in turn (A B B A in every round) and are started anew for every round: where a process happens to
lie in memory changes what it costs, by more than what is looked for. CPU is that of the server's
whole process tree, which a machine with other work disturbs less than its latencies. What disturbs
a turn only adds to it, so that a round counts the cheapest turn of each; a row is the median of the
rounds' ratios and its interval of 95 % (bootstrap).
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import uvloop

import contestants
import generator
import load
from contestants import Effort, Server
from question import Bodies, Question

ROOT = Path(__file__).resolve().parents[1]
ROUNDS, TURNS, REQUESTS = 15, 2, 60
"""Rounds, times A B B A in a round, and requests each time."""
EACH = 8
"""Requests of a connection at least: what it costs to accept it is not what is asked here."""
FEW = 2
"""Requests each time of a model beside which a connection costs nothing."""
RESAMPLES, ENDS = 10_000, (2.5, 97.5)
SETTLING = 0.1
"""Seconds between waking a server and asking it: what it does because it slept is no request's.

A worker that stops or goes on is told to its zygote as one that ended is; it then looks through all
processes of the machine, which took some 6 ms where there were hundreds.
"""
PARTS = ("bench", "mataserver", "plugins")
ENGINES = ("process", "thread")


@dataclass(frozen=True)
class Case:
    """A question, asked over a number of connections or with a window of frames."""

    name: str
    question: Question
    connections: int
    few: bool = False
    """Whether a request takes as long as hundreds of the others."""


CASES = (
    Case("raw, 1 conn.", Question("noop", "raw"), 1),
    Case("raw, 16 conn.", Question("noop", "raw"), 16),
    Case("JSON, 1 conn.", Question("noop", "json"), 1),
    Case("JSON, 16 conn.", Question("noop", "json"), 16),
    Case("multipart, 1 conn.", Question("noop", "form"), 1),
    Case("multipart, 16 conn.", Question("noop", "form"), 16),
    Case("stream, window 1", Question("noop", "frames"), 1),
    Case("stream, window 8", Question("noop", "frames"), 8),
    Case("resizing, raw, 1 conn.", Question("detector", "raw"), 1),
    Case("100 detections, raw, 1 conn.", Question("many", "raw"), 1),
    Case("100 detections, stream, window 8", Question("many", "frames"), 8),
    Case("depth map, MessagePack, 1 conn.", Question("depth", "packed"), 1),
    Case("depth map, JSON, 1 conn.", Question("depth", "raw"), 1),
    Case("ViT-B, 1 conn.", Question("vit", "raw"), 1, few=True),
)


def arguments() -> argparse.Namespace:
    """Return the command line's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("revision")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--requests", type=int, default=REQUESTS)
    parser.add_argument("--engine", choices=ENGINES, action="append")
    parser.add_argument("cases", nargs="*")
    return parser.parse_intermixed_args()


def check_out(revision: str, folder: Path) -> Path:
    """Write what of a revision is measured into a folder, or of the tree that lies in another."""
    if Path(revision).is_dir():
        for part in PARTS:
            unneeded = shutil.ignore_patterns("__pycache__", "tests")
            shutil.copytree(Path(revision, part), folder / part, ignore=unneeded)
        return folder
    command = ["git", "archive", revision, *PARTS]
    packed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def start(tree: Path, engine: str, bodies: Bodies) -> Server:
    """Start the server of a tree: its modules go before those that are installed."""
    modules = [tree, *sorted((tree / "plugins").iterdir())]
    program = [sys.executable, str(tree / "bench" / "ours.py")]
    return Server(
        lambda port: [*program, str(port), engine, "1"],
        contestants.served_by_ours,
        bodies,
        {"PYTHONPATH": os.pathsep.join(map(str, modules))},
    )


def cost(server: Server, case: Case, requests: int, bodies: Bodies) -> float:
    """Return the CPU milliseconds of a request. Raises ``LoadError`` when one failed."""
    with server.tree.awake():
        time.sleep(SETTLING)
        url = server.url(case.question)
        wanted = FEW if case.few else max(requests, EACH * case.connections)
        effort = Effort(0, wanted)
        order = contestants.order(case.question, bodies, effort, case.connections, url)
        ask = generator.frames if order.frames else generator.requests
        begun = server.tree.cpu()
        outcome = uvloop.run(ask(order))
        spent = server.tree.cpu() - begun
    if outcome.failed or not outcome.requests:
        raise load.LoadError(f"{case.name}: {outcome.failed} failed: {outcome.example}")
    return spent / outcome.requests * 1e3


Turns = list[tuple[float, float]]
"""CPU milliseconds per request of the other revision and of the working tree, round by round."""


def turns(
    trees: tuple[Path, Path], engine: str, cases: list[Case], asked: argparse.Namespace
) -> dict[str, Turns]:
    """Return what each case's rounds cost."""
    found: dict[str, Turns] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        bodies = Bodies(Path(folder))
        for _ in range(asked.rounds):
            servers: list[Server] = []
            try:
                servers += [start(tree, engine, bodies) for tree in trees]
                for case in cases:
                    for server in servers:
                        cost(server, case, TURNS * asked.requests, bodies)  # loads, and warms
                    found[case.name].append(_round(servers, case, asked.requests, bodies))
            finally:
                for server in servers:
                    server.close()
    return found


def _round(servers: list[Server], case: Case, requests: int, bodies: Bodies) -> tuple[float, float]:
    other, ours = servers
    spent: dict[Server, list[float]] = {other: [], ours: []}
    for server in (other, ours, ours, other) * TURNS:
        spent[server].append(cost(server, case, requests, bodies))
    return min(spent[other]), min(spent[ours])


def row(engine: str, name: str, rounds: Turns) -> str:
    """Return a line of the table."""
    ratios = np.array([ours / other for other, ours in rounds])
    drawn = np.random.default_rng(0).choice(ratios, (RESAMPLES, len(ratios)))
    low, high = np.percentile(np.median(drawn, axis=1), ENDS)
    other, ours = (statistics.median(each) for each in zip(*rounds, strict=True))
    ratio = f"{np.median(ratios):.3f} | {low:.3f} to {high:.3f}"
    return f"| {name} | `{engine}` | {other:.3f} | {ours:.3f} | {ratio} |"


def main() -> None:
    """Measure and print the table."""
    asked = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the servers are ended, too
    cases = [c for c in CASES if not asked.cases or any(name in c.name for name in asked.cases)]
    print(
        f"| | engine | {asked.revision}, ms | now, ms | ratio | 95 % |\n|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        trees = (
            check_out(asked.revision, Path(folder, "other")),
            check_out(str(ROOT), Path(folder, "ours")),
        )
        for engine in asked.engine or ENGINES:
            for name, rounds in turns(trees, engine, cases, asked).items():
                print(row(engine, name, rounds), flush=True)


if __name__ == "__main__":
    main()
