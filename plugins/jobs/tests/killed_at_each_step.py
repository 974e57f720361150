"""Makes and removes a job's folder in processes that are killed at each step: prints what is left.

A step is what the interpreter asks the system for. The root is the first argument.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sys
import time
from pathlib import Path

from mataserver_jobs.storage import Storage

JOB = "00000000-0000-4000-8000-000000000000"
STEPS = {"open", "fcntl.flock", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.scandir"}


def kill_at(step):
    """Have this process be killed before the step of a number."""
    counted = itertools.count(1)

    def heard(event, _arguments):
        if event in STEPS and next(counted) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(heard)


def left(storage):
    """Return what is below the root some minutes later, once it was swept."""
    for path in storage.root.rglob("*"):
        os.utime(path, (time.time() - 300,) * 2)
    for job in storage.sweep():
        storage.remove(job)
    return [str(path.relative_to(storage.root)) for path in storage.root.rglob("*")]


def make(storage):
    """Make a job's folder, as a draft does."""
    with contextlib.ExitStack() as held:
        (storage.make(JOB, held) / "given").write_text("a picture")


def run(storage, work, before):
    """Kill processes that do some work at each of its steps; print those that leave something."""
    for step in itertools.count(1):
        before(storage)
        sys.stdout.flush()
        if not (child := os.fork()):
            kill_at(step)
            work(storage)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if found := left(storage):
            sys.stdout.write(f"{work.__name__} {step} {found}\n")
            Storage(storage.root, min_free=0).remove(JOB)
        if not os.WIFSIGNALED(status):
            sys.stdout.write(f"{work.__name__} took {step - 1} steps\n")
            return


if __name__ == "__main__":
    jobs = Storage(Path(sys.argv[1]), min_free=0)
    jobs.has_room()

    def remove(storage):
        """Remove a job's folder."""
        storage.remove(JOB)

    run(jobs, make, lambda _: None)
    run(jobs, remove, make)
