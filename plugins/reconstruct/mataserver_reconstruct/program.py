"""Runs a program that finds or matches features for a job, and defines its input.

Networks need frameworks that take gigabytes and contain a SQLite and an OpenMP of their own, which
must not be loaded together with COLMAP's. They run in a separate process, which has ended before
the models are built.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta, Struct

from mataserver import MataError
from mataserver_reconstruct import die_with_parent
from mataserver_reconstruct.photos import write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mataserver_reconstruct.workspace import Workspace


class Pair(Struct, frozen=True):
    """Two photographs, and the file for their matches."""

    first: str
    second: str
    file: str


class MatcherRequest(Struct, frozen=True, kw_only=True):
    """A program's input, in a file.

    photos, output: the folder of the photographs, and that of the results.
    files:          photographs whose features are requested, each in a file of its own name + .npz.
    pairs:          those whose matches are requested.
    most:           the maximum features of one photograph.
    matcher, settings: the networks' matcher, and the locations of their weights.
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
    workspace: Workspace,
    name: str,
    command: Sequence[str],
    request: MatcherRequest,
    progress: Callable[[int], None],
) -> None:
    """Run a program on a request; ``progress`` gets the number of lines printed, one per part.

    Raises ``MataError`` when it fails, ``RuntimeError`` when it is killed, which another attempt
    may change, and what the job raises when it is to stop.
    """
    place = workspace.work / f"{name}.order.json"
    write_atomically(place, msgspec.json.encode(request))
    whole = [sys.executable, str(Path(die_with_parent.__file__)), *command, str(place)]
    with subprocess.Popen(  # noqa: S603 - ours, or the operator's
        whole, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        _follow(
            workspace, process, progress
        )  # however it ends: leaving ends the program, by its die_with_parent
    if process.returncode >= die_with_parent.SIGNAL_BASE or process.returncode < 0:
        raise RuntimeError(f"the program of the matcher {name} was killed")
    if process.returncode:
        raise MataError(
            f"the matcher {name} failed: its program ended with status {process.returncode}, and "
            "the job's log says why"
        )


def _follow(
    workspace: Workspace, process: subprocess.Popen[bytes], progress: Callable[[int], None]
) -> None:
    """Read the lines of a program until it closes its output."""
    if process.stdout is None or process.stdin is None:
        raise MataError("the program has no pipes")
    count = 0
    while workspace.native.run_cancellable(process.stdout.readline, process.stdin.close):
        count += 1
        progress(count)
