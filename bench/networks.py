"""Networks of published shapes: our server beside their bare loops and FastAPI with torch.

Run as ``python bench/networks.py [NETWORK ...]``; it prints a Markdown table and whether the goals
are met. Each network of ``shapes`` is served by ``mataserver serve`` and its plugin ``onnx``: on
ONNX Runtime, and with ``--kinds onnx openvino int8 openvino-int8`` also on OpenVINO, and as the
exporter's int8 where it has one. With one worker of two threads and with two of one; the loop
without a server is in one process with two threads and in two with one, with the same runtime and
the same code. FastAPI has torch eager, alike. Everyone answers a JPEG of 640 x 480 in JSON, a
number of requests, in turn in each round; rates are medians of the rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cases
import contest
import contestants
import peers
import shapes
from contestants import Effort
from question import Bodies, Question

if TYPE_CHECKING:
    from cases import Maker

OURS, LOOPS, FASTAPI = (
    (one, f"{one} x 2") for one in ("mataserver", "bare loop", "FastAPI, torch")
)
"""Of each, one process with two threads, and two with one."""

KINDS = {
    "onnx": "ONNX Runtime",
    "openvino": "OpenVINO",
    "int8": "ONNX Runtime, int8",
    "openvino-int8": "OpenVINO, int8",
}


def runtime(kind: str) -> str:
    """Return what runs a kind, as the plugin's setting calls it."""
    return "openvino" if kind.startswith("openvino") else "onnxruntime"


def directory(name: str, kind: str) -> Path:
    """Return the directory of a network's ONNX of a kind."""
    return shapes.file(name, int8=kind.endswith("int8"))


LOOP_GOAL, FASTAPI_GOAL = 0.95, 2.5
ROUNDS = 3


@dataclass(frozen=True)
class Asked(Question):
    """A picture for a network: what a good answer holds is its task, once."""

    @property
    def needle(self) -> tuple[str, int]:
        """What a good answer holds, and how often."""
        return '"task"', 1


# contestants


def ours(name: str, kind: str, replicas: int, bodies: Bodies) -> contestants.Server:
    """Start our server with one network."""
    task = shapes.SHAPES[name].task
    path = directory(name, kind)
    folder = Path(tempfile.mkdtemp(dir=bodies.folder))
    entry = {"task": task, "source": "local", "pulled_at": time.time(), "path": str(path)}
    registry = {"version": 1, "models": {name: entry}}
    (folder / "model_registry.json").write_text(json.dumps(registry))
    settings: dict[str, Any] = {
        "data_dir": str(folder),
        "auth_mode": "none",
        "keep_alive": -1,
        "log_level": "warning",
        "models": [{"model": name, "replicas": replicas, "threads": 2 // replicas}],
        "plugins": {"onnx": {"runtime": runtime(kind)}},
    }
    file = folder / "mataserver.yaml"
    file.write_text(json.dumps(settings))  # JSON is YAML
    program = [sys.executable, "-m", "mataserver", "serve", "--config", str(file)]
    return contestants.Server(
        lambda port: [*program, "--port", str(port)], contestants.served_by_ours, bodies
    )


def loops(name: str, kind: str, processes: int, bodies: Bodies) -> contestants.Loops:
    """Start the loop without a server, on the same runtime."""
    path = directory(name, kind)
    program = [sys.executable, str(contestants.HERE / "networks_loop.py")]
    arguments = [name, str(path), runtime(kind), str(2 // processes)]
    return contestants.Loops([*program, *arguments], processes, bodies)


def fastapi(name: str, workers: int, bodies: Bodies) -> contestants.Server:
    """Start FastAPI with torch eager."""
    program = [peers.python("fastapi"), "-m", "uvicorn", "peer_networks:app", "--loop", "uvloop"]
    program += ["--http", "httptools", "--no-access-log", "--log-level", "warning"]
    variables = {
        "BENCH_NET": str(shapes.checkpoint(name)),
        "BENCH_TASK": shapes.SHAPES[name].task,
        "BENCH_THREADS": str(2 // workers),
        "HF_HUB_OFFLINE": "1",
    }
    return contestants.Server(
        lambda port: [*program, "--workers", str(workers), "--port", str(port)],
        lambda base, _: f"{base}/infer",
        bodies,
        variables,
    )


# measuring


def kinds_of(name: str, wanted: list[str]) -> list[str]:
    """Return the kinds of a network: the exporter's int8 is not for those of our own making."""
    return [kind for kind in wanted if not (kind.endswith("int8") and shapes.SHAPES[name].is_own)]


def makers(name: str, kinds: list[str], *, with_peer: bool) -> dict[str, Maker]:
    """Return how everybody is started, by name."""
    found: dict[str, Maker] = {}
    for kind in kinds:
        for number in (1, 2):
            found[f"{OURS[number - 1]}, {kind}"] = partial(ours, name, kind, number)
            found[f"{LOOPS[number - 1]}, {kind}"] = partial(loops, name, kind, number)
    if with_peer and not shapes.SHAPES[name].is_own:
        found |= {FASTAPI[number - 1]: partial(fastapi, name, number) for number in (1, 2)}
    return found


def measured(name: str, everyone: dict[str, Maker], asked: argparse.Namespace) -> list[Any]:
    """Measure a network, by one connection and by 16."""
    question, count = Asked(name, "raw"), asked.count or shapes.SHAPES[name].count
    # One connection has one picture under way: a second process would have nothing to do.
    single = tuple(each for each in everyone if " x 2" not in each)
    group = cases.Group(
        everyone,
        (
            cases.Case(f"{name}, 1", question, 1, single, effort=Effort(0, max(4, count // 4))),
            cases.Case(f"{name}, 16", question, 16, tuple(everyone), effort=Effort(0, count)),
        ),
    )
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        plan = contest.Plan(asked.rounds, quick=False, seconds=0, without=set())
        return contest.run(group, Bodies(Path(folder)), plan)


def rows(name: str, kinds: list[str], result: contest.Result) -> list[str]:
    """Print the rows of a case; return the goals of it in words."""
    told, theirs = [], result.best(FASTAPI, "rate")
    for kind in kinds:
        us, them = (tuple(f"{each}, {kind}" for each in who) for who in (OURS, LOOPS))
        rates = [result.median(each, "rate") for each in (*us, *them)]
        best, least = result.best(us, "rate"), result.best(them, "rate")
        assert best is not None
        assert least is not None
        cells = [f"{rate:.1f}" if rate else "" for rate in rates]
        title, connections = shapes.SHAPES[name].title, result.case.connections
        cpu = (result.best(each, "cpu") for each in (us, them))
        costs = "{:.0f} / {:.0f}".format(*(each or 0 for each in cpu))
        peer, gain = (f"{theirs:.1f}", f"{best / theirs:.1f}") if theirs else ("", "")
        print(
            f"| {title} | {KINDS[kind]} | {connections} | {' | '.join(cells)} "
            f"| {best / least:.2f} | {costs} | {peer} | {gain} |",
            flush=True,
        )
        goals = [("of the best bare loop", best / least, LOOP_GOAL)]
        goals += [("times FastAPI with torch", best / theirs, FASTAPI_GOAL)] if theirs else []
        told += [
            f"- {title}, {KINDS[kind]}, {connections} conn.: {value:.2f} {what}; "
            f"{goal:g} {'met' if value >= goal else 'missed'}"
            for what, value, goal in goals
        ]
    return told


def arguments() -> argparse.Namespace:
    """Return the command line's."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("networks", nargs="*", help=", ".join(shapes.SHAPES))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["onnx"])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument(
        "--count", type=int, default=0, help="requests of a measurement; for a test"
    )
    parser.add_argument("--without-peer", action="store_true", help="not FastAPI with torch")
    asked = parser.parse_args()
    unknown = sorted(set(asked.networks) - set(shapes.SHAPES))
    if unknown:
        parser.error(f"there is no {unknown[0]}, only {', '.join(shapes.SHAPES)}")
    return asked


def main() -> None:
    """Measure and print."""
    # Servers that sleep would outlive this process: SIGTERM ends them, as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    asked = arguments()
    names = asked.networks or list(shapes.SHAPES)
    shapes.ensure(names)
    load, begun = os.getloadavg()[0], time.monotonic()
    print(
        "| network | runs on | connections | ours | ours x 2 | loop | loop x 2 | ours / best loop "
        "| CPU ms, ours / loop | FastAPI, torch | times FastAPI |\n|" + "---|" * 11
    )
    told = []
    for name in names:
        kinds = kinds_of(name, asked.kinds)
        if kinds:
            everyone = makers(name, kinds, with_peer=not asked.without_peer)
            for result in measured(name, everyone, asked):
                told += rows(name, kinds, result)
    print(
        f"\n{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"{asked.rounds} rounds, load {load:.1f} at the beginning, "
        f"{time.monotonic() - begun:.0f} s\n"
    )
    print("\n".join(told))


if __name__ == "__main__":
    main()
