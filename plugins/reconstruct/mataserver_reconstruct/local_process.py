"""The process of the command's reconstruction: reads a request on stdin, writes progress to stdout.

COLMAP is native code: a crash of it ends this process, and not the command that reports it.
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
from mataserver_reconstruct import room
from mataserver_reconstruct.local import JobStopped, LocalJob


class ProcessRequest(Struct):
    """The first line of stdin."""

    folder: str
    source: str
    spec: dict[str, Any]
    settings: dict[str, Any] = {}


class ProgressMessage(Struct, tag="step"):
    """The progress of a stage."""

    stage: str
    done: float
    total: float
    message: str


class EndMessage(Struct, tag="end"):
    """How it ended: done, refused or stopped; with the figures, or the reason."""

    how: str
    figures: dict[str, Any] = {}
    why: str = ""


Message = ProgressMessage | EndMessage


def main() -> None:
    """Run the request in the first line of stdin; the end of stdin stops it."""
    request = msgspec.json.decode(sys.stdin.readline(), type=ProcessRequest)
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # libraries' output must not mix with the messages

    def send(line: Message) -> None:
        try:
            out.write(msgspec.json.encode(line) + b"\n")
        except BrokenPipeError:  # the command is gone: stop, which still writes the partial result
            job.stop()

    job = LocalJob(
        Path(request.folder),
        Path(request.source),
        request.spec,
        lambda *told: send(ProgressMessage(*told)),
        settings=request.settings,
    )
    for number in (signal.SIGINT, signal.SIGHUP):  # from the terminal: the command handles them
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: job.stop())
    threading.Thread(target=_watch, args=(job,), daemon=True).start()
    send(_run(job))


def _run(job: LocalJob) -> EndMessage:
    try:
        return EndMessage("done", mataserver_reconstruct.run(job))
    except JobStopped:
        return EndMessage("stopped")
    except MataError as error:
        return EndMessage("refused", why=error.detail)
    except (OSError, RuntimeError) as error:
        if room.is_missing(error, job.output):
            return EndMessage("refused", why=room.FULL)
        if isinstance(error, OSError) and error.filename:
            return EndMessage("refused", why=f"{error.filename}: {error.strerror}")
        raise


def _watch(job: LocalJob) -> None:
    """Stop the job when the command that waits for it is gone."""
    while os.read(0, 4_096):  # not by sys.stdin, whose lock would be held at exit
        pass
    job.stop()


if __name__ == "__main__":
    main()
