"""Functions of the tests' jobs."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path

from mataserver import BadRequest


def count(job):
    """Count to ``spec["to"]``, a step each 10 ms, from where an earlier attempt stopped.

    Half-way it waits while there is a file ``hold`` beside the folder of jobs.
    """
    book, hold = job.work / "counted", job.folder.parents[1] / "hold"
    done = int(book.read_text()) if book.exists() else 0
    for number in range(done, job.spec["to"]):
        job.report("counting", number, job.spec["to"], f"{number} of {job.spec['to']}")
        time.sleep(0.01)
        while number == job.spec["to"] // 2 and hold.exists():
            time.sleep(0.01)
        with (job.output / "steps").open("a") as file:
            file.write(f"{number}\n")
        fresh = job.work / "counted.new"
        fresh.write_text(str(number + 1))
        fresh.replace(book)  # at once: it may be killed at any moment
    return {"counted": job.spec["to"], "attempt": job.attempt}


def echo(job):
    """Give back what was given, and ``spec["copies"]`` files more."""
    shutil.copytree(job.input, job.output, dirs_exist_ok=True)
    (job.output / "copies").mkdir()
    for number in range(job.spec["copies"]):
        (job.output / "copies" / str(number)).write_text(str(number))
    return {"folder": str(job.folder)}


def die(job, how):
    """End the process without a word, if that is how."""
    if how == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == "fill":  # as native code does that finds no room
        with (job.folder.parents[1] / "filler").open("ab", buffering=0) as file:
            while shutil.disk_usage(job.folder).free > 2_000_000:
                file.write(bytes(100_000))
        os.abort()
    if how == "exit":
        os._exit(0)


def misbehave(job):
    """Do what ``spec["how"]`` says."""
    how = job.spec["how"]
    if how == "refuse":
        raise BadRequest("there is no picture in it")
    if how == "full":
        with Path("/dev/full").open("wb", buffering=0) as file:
            file.write(b"x")
    if how == "raise":
        raise RuntimeError("secret detail")
    die(job, how)
    if how == "print":
        sys.stdout.write("no message\n")
        sys.stdout.flush()
    if how == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        job.report("counting", 1, 2, "deaf")
        time.sleep(600)
    if how == "once" and job.attempt == 1:
        os._exit(9)
    return {"folder": sorted(path.name for path in Path(job.folder).iterdir())}
