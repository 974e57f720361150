"""A program that finds or matches features beside a job, and what it is told.

Networks need frameworks that hold gigabytes and bring a SQLite and an OpenMP of their own, which
must not come together with COLMAP's. They run in a process of their own, that is gone when the
models are made.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta, Struct

from mataserver import MataError
from mataserver_reconstruct import leash
from mataserver_reconstruct.photos import replace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mataserver_reconstruct.study import Study


class Pair(Struct, frozen=True):
    """Two photographs, and the file that their matches go to."""

    first: str
    second: str
    file: str


class Order(Struct, frozen=True, kw_only=True):
    """What a program is told, in a file.

    photos, output: the folder of the photographs, and that of what it writes.
    files:          photographs whose features are wanted, each in a file of its own name + .npz.
    pairs:          those whose matches are wanted.
    most:           features of one photograph at most.
    matcher, settings: whose networks, and where they are.
    """

    photos: str
    output: str
    files: list[str] = []
    pairs: list[Pair] = []
    most: int
    seed: int
    threads: Annotated[int, Meta(ge=1)]
    matcher: str = ""
    settings: dict[str, Any] = {}


def run(
    study: Study, name: str, command: Sequence[str], order: Order, told: Callable[[int], None]
) -> None:
    """Run a program on an order; ``told`` is told how many lines it printed, one for each part.

    Raises ``MataError`` when it fails, ``RuntimeError`` when something kills it, which another
    attempt may change, and what the job raises when it is to stop.
    """
    place = study.work / f"{name}.order.json"
    replace(place, msgspec.json.encode(order))
    whole = [sys.executable, str(Path(leash.__file__)), *command, str(place)]
    with subprocess.Popen(  # noqa: S603 - ours, or the operator's
        whole, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        _follow(study, process, told)  # however it ends: leaving ends the program, by its leash
    if process.returncode >= leash.SIGNALLED or process.returncode < 0:
        raise RuntimeError(f"the program of the matcher {name} was killed")
    if process.returncode:
        raise MataError(
            f"the matcher {name} failed: its program ended with status {process.returncode}, and "
            "the job's log says why"
        )


def _follow(study: Study, process: subprocess.Popen[bytes], told: Callable[[int], None]) -> None:
    """Read the lines of a program until it closes its output."""
    if process.stdout is None or process.stdin is None:
        raise MataError("the program has no pipes")
    count = 0
    while study.native.watched(process.stdout.readline, process.stdin.close):
        count += 1
        told(count)
