"""The process of the command's reconstruction: reads a request on stdin, writes progress to stdout.

COLMAP is native code: a crash of it ends this process, and not the command that reports it.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

import mataserver_reconstruct
from mataserver import MataError
from mataserver_reconstruct import room
from mataserver_reconstruct.local import JobStopped, LocalJob

_WAIT = 10.0
"""Seconds that the process of a killed command may need to end before the folder is taken over."""


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
        _hold(job)
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


def _hold(job: LocalJob) -> None:
    """Lock the output until this process ends: COLMAP's database allows no second one beside it.

    Raises ``MataError`` if another process has it, ``JobStopped`` when the job is to stop.
    """
    held, end = os.open(job.output, os.O_RDONLY | os.O_DIRECTORY), time.monotonic() + _WAIT
    while True:
        job.check()
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise MataError(
                    f"another command writes to {job.output}: wait until it has ended, or choose "
                    "another folder with --output"
                ) from None
            time.sleep(0.1)
        except OSError:  # a file system without locks
            return
        else:
            return


def _watch(job: LocalJob) -> None:
    """Stop the job when the command that waits for it is gone."""
    while os.read(0, 4_096):  # not by sys.stdin, whose lock would be held at exit
        pass
    job.stop()


if __name__ == "__main__":
    main()
