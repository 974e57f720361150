"""The process of the command's reconstruction: what is asked on stdin, how far it is on stdout.

COLMAP is native code: what it crashes on takes this process, and not the one that tells about it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

import mataserver_reconstruct
from mataserver import MataError
from mataserver_reconstruct.local import LocalJob, Stopped


class Order(Struct):
    """What the process is told first."""

    folder: str
    source: str
    spec: dict[str, Any]
    settings: dict[str, Any] = {}


class Step(Struct, tag="step"):
    """How far a stage is."""

    stage: str
    done: float
    total: float
    message: str


class End(Struct, tag="end"):
    """How it ended: done, refused or stopped; the figures, or why not."""

    how: str
    figures: dict[str, Any] = {}
    why: str = ""


Line = Step | End


def main() -> None:
    """Run what the first line of stdin asks; its end stops it."""
    order = msgspec.json.decode(sys.stdin.readline(), type=Order)
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what libraries print is no line of ours

    def tell(line: Line) -> None:
        try:
            out.write(msgspec.json.encode(line) + b"\n")
        except BrokenPipeError:  # who waited for us is gone: what was reached is still written
            job.stop()

    job = LocalJob(
        Path(order.folder),
        Path(order.source),
        order.spec,
        lambda *told: tell(Step(*told)),
        settings=order.settings,
    )
    for number in (signal.SIGINT, signal.SIGHUP):  # the terminal's, for whoever waits for us
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: job.stop())
    threading.Thread(target=_watch, args=(job,), daemon=True).start()
    tell(_ended(job))


def _ended(job: LocalJob) -> End:
    try:
        return End("done", mataserver_reconstruct.run(job))
    except Stopped:
        return End("stopped")
    except MataError as error:
        return End("refused", why=error.detail)


def _watch(job: LocalJob) -> None:
    """Stop the job when whoever waits for it is gone."""
    while os.read(0, 4_096):  # not by sys.stdin, whose lock would be held when all ends
        pass
    job.stop()


if __name__ == "__main__":
    main()
