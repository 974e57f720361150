"""A worker that dies again and again: nothing may leak, and its neighbours may not notice.

Run as ``python bench/crashes.py [CRASHES]`` (default 1000). Each crash is an ``os._exit``, a
segmentation fault or a ``kill -9``, in turn, while a request is with the worker.
"""

from __future__ import annotations

import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import psutil

import contestants
from contestants import Effort
from generator import Outcome
from question import Bodies, Question, small

if TYPE_CHECKING:
    from collections.abc import Iterator

WAYS = ("exit", "segfault", "kill")
VICTIM = "/v1/infer?model=faulty"
WARM_UP, NEIGHBOUR_SECONDS, NEIGHBOUR_ROUNDS = 20, 4.0, 5
GROWTH_MB, ANSWER_S, NEXT_S, NEIGHBOURS = 5.0, 1.0, 1.0, 1.5


class Status(msgspec.Struct, frozen=True):
    """What could leak: of the server and all its processes."""

    processes: int
    descriptors: int
    memory_files: int
    megabytes: float


@dataclass
class Victim:
    """A model whose worker is made to die."""

    server: contestants.Server
    image: bytes

    def ask(self, query: str = "") -> int:
        """Return the status of a request."""
        url, headers = f"{self.server.base}{VICTIM}{query}", {"Content-Type": "image/jpeg"}
        try:
            asked = urllib.request.Request(url, self.image, headers)
            with urllib.request.urlopen(asked) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    def crash(self, way: str) -> tuple[float, float]:
        """Return the seconds from a crash to its answer, and from there to the next 200."""
        if way == "kill":
            begun = self._killed()
        else:
            begun = time.perf_counter()
            self._expect(self.ask(f"&end={way}"))
        answered = time.perf_counter()
        while self.ask() != 200:
            time.sleep(0.01)
        return answered - begun, time.perf_counter() - answered

    def _killed(self) -> float:
        """Kill the worker while it has a request; return when."""
        command = [sys.executable, "-c", KILL, str(self.worker()), "0.1"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as killer:
            self._expect(self.ask("&seconds=30"))
            assert killer.stdout is not None
            return float(killer.stdout.read())

    def worker(self) -> int:
        """Return the worker's process: the youngest of all."""
        return max(
            self.server.tree.processes(), key=lambda each: (each.create_time(), each.pid)
        ).pid

    @staticmethod
    def _expect(status: int) -> None:
        if status != 500:
            raise SystemExit(f"a crash was answered {status}")


KILL = (
    "import os, sys, time; time.sleep(float(sys.argv[2])); os.kill(int(sys.argv[1]), 9); "
    "print(time.perf_counter())"
)


def status(server: contestants.Server) -> Status:
    """Return what could leak now."""
    time.sleep(0.5)
    everyone = server.tree.processes()
    links = [link for each in everyone for link in _links(each.pid)]
    files = sum("memfd" in link for link in links)
    memory = everyone[0].memory_info().rss / 1e6
    return Status(len(everyone), len(links), files, memory)


def _links(pid: int) -> list[str]:
    folder = Path(f"/proc/{pid}/fd")
    found = []
    for each in folder.iterdir():
        try:
            found.append(str(each.readlink()))
        except FileNotFoundError:
            continue
    return found


def leaks(victim: Victim, count: int) -> bool:
    """Crash the worker many times and print what came of it; return whether it passed."""
    ways: Iterator[str] = itertools.cycle(WAYS)
    for _ in range(WARM_UP):
        victim.crash(next(ways))
    before = status(victim.server)
    taken: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for way in itertools.islice(ways, count):
        taken[way].append(victim.crash(way))
    after = status(victim.server)
    print(f"{count} crashes; before: {before}\n{' ' * len(str(count))}          after: {after}")
    for way, times in taken.items():
        answers, nexts = zip(*times, strict=True)
        print(f"{way}: answered in {_times(answers)}; the next 200 after {_times(nexts)}")
    answers, nexts = zip(*itertools.chain(*taken.values()), strict=True)
    same = msgspec.structs.replace(after, megabytes=0) == msgspec.structs.replace(
        before, megabytes=0
    )
    flat = after.megabytes - before.megabytes < GROWTH_MB
    return same and flat and max(answers) < ANSWER_S and max(nexts) < NEXT_S


def _times(values: tuple[float, ...]) -> str:
    return f"{statistics.median(values) * 1e3:.0f} ms (at most {max(values) * 1e3:.0f})"


def neighbours(victim: Victim, bodies: Bodies) -> bool:
    """Print a neighbour's p99 with and without crashes; return whether it is within bounds."""
    p99s: dict[bool, list[float]] = {False: [], True: []}
    for crashing in [False, True] * NEIGHBOUR_ROUNDS:
        p99s[crashing].append(_neighbour(victim, bodies, crashing=crashing))
    quiet, hurt = (statistics.median(p99s[each]) for each in (False, True))
    print(f"a neighbour's p99: {quiet:.2f} ms, {hurt:.2f} ms during crashes = {hurt / quiet:.2f}")
    return hurt <= NEIGHBOURS * quiet


def _neighbour(victim: Victim, bodies: Bodies, *, crashing: bool) -> float:
    """Ask another model for a while, the victim once a second; return the other's p99 in ms."""
    url = f"{victim.server.base}/v1/infer?model=noop"
    order = contestants.order(Question("noop", "raw"), bodies, Effort(NEIGHBOUR_SECONDS), 1, url)
    command = [sys.executable, str(contestants.HERE / "generator.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as asking:
        assert asking.stdin is not None
        assert asking.stdout is not None
        asking.stdin.write(msgspec.json.encode(order))
        asking.stdin.close()
        while asking.poll() is None:
            victim.crash("exit") if crashing else victim.ask()
            time.sleep(0.5)
        outcome = msgspec.json.decode(asking.stdout.read(), type=Outcome)
    if outcome.failed:
        raise SystemExit(f"a neighbour's request failed: {outcome.example}")
    return outcome.p99


def gone(pid: int, everyone: list[psutil.Process]) -> bool:
    """Kill the server itself with signal 9; return whether all its processes end with it."""
    os.kill(pid, 9)
    left = psutil.wait_procs(everyone, 5.0)[1]
    print(f"after a kill -9 of the server {len(left)} of {len(everyone)} processes are left")
    return not left


def main() -> int:
    """Crash and measure; return 0 if all is well."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with tempfile.TemporaryDirectory() as folder:
        bodies = Bodies(Path(folder))
        server = contestants.ours(bodies)
        try:
            with server.tree.awake():
                victim = Victim(server, small())
                victim.ask()
                passed = [neighbours(victim, bodies), leaks(victim, count)]
                passed.append(gone(server.process.pid, server.tree.processes()))
        finally:
            server.close()
    print("PASSED" if all(passed) else "FAILED")
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
