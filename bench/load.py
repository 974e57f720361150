"""Puts load on a server: wrk where it is installed and fits, else a process of our own."""

from __future__ import annotations

import functools
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from generator import Outcome

if TYPE_CHECKING:
    from generator import Order

HERE = Path(__file__).resolve().parent
BUSY = 0.95


class LoadError(Exception):
    """A request failed, or the load itself was the limit."""


@dataclass(frozen=True)
class Load:
    """What came of an order, and the share of a core that asking took."""

    outcome: Outcome
    busy: float


@functools.cache
def wrk() -> str | None:
    """Return the program, if it is installed."""
    return shutil.which("wrk")


def put(order: Order) -> Load:
    """Do what an order says.

    Raises ``LoadError`` when a request failed or the load itself was the limit.
    """
    whole = order.seconds >= 1 and order.seconds == int(order.seconds)
    fits = wrk() is not None and whole and not order.count and not order.frames
    begun, used = time.perf_counter(), _children()
    outcome = _by_wrk(order) if fits else _by_generator(order)
    busy = (_children() - used) / (time.perf_counter() - begun)
    if outcome.failed or not outcome.requests:
        raise LoadError(f"{outcome.failed} of {outcome.requests} failed: {outcome.example}")
    if busy > BUSY:
        raise LoadError(f"the load took {busy:.2f} of a core: it was the limit")
    return Load(outcome, busy)


def _children() -> float:
    """Return the CPU seconds of the children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _by_generator(order: Order) -> Outcome:
    command = [sys.executable, str(HERE / "generator.py")]
    ran = subprocess.run(
        command, input=msgspec.json.encode(order), capture_output=True, check=False
    )
    if ran.returncode:
        raise LoadError(ran.stderr.decode().strip().splitlines()[-1])
    return msgspec.json.decode(ran.stdout, type=Outcome)


def _by_wrk(order: Order) -> Outcome:
    program = str(wrk())
    command = [program, "-t1", f"-c{order.connections}", f"-d{int(order.seconds)}s"]
    command += ["--timeout", "60s", "-s", str(HERE / "wrk.lua"), order.url, "--"]
    command += [order.method, order.body or "-", order.needle, str(order.times)]
    command += [f"{name}: {value}" for name, value in order.headers.items()]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode or not ran.stderr:
        raise LoadError(f"wrk: {ran.stderr or ran.stdout}")
    asked, lasted, failed, p50, p99, example = ran.stderr.strip("\n").split(" ", 5)
    times = (float(p50) / 1e3, float(p99) / 1e3)
    return Outcome(int(asked), int(lasted) / 1e6, int(failed), *times, example)
