"""What the tests of child processes run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path


def echo(parent):
    """Send every message back."""
    for message in parent.messages(dict):
        parent.send({"said": message, "arguments": parent.arguments})


KEPT = []
"""A cycle that is older than the call of a target."""
KEPT.append(KEPT)


def leaving_cycles(parent):
    """Leave files open that cycles alone refer to."""
    import tempfile
    import zipfile

    folder = Path(parent.arguments[0])
    text = (folder / "text").open("w")
    archive = zipfile.ZipFile(folder / "archive", "w")
    temporary = tempfile.NamedTemporaryFile(dir=folder)  # noqa: SIM115 - nothing closes it
    text.write("ten bytes\n")
    archive.writestr("name", "content")
    for each in (archive, temporary):
        cycle = [each]
        cycle.append(cycle)
    KEPT.append(text)


def noisy(parent):
    """Print to both streams, then fail."""
    sys.stdout.write("this is no message")
    sys.stderr.write("x" * 10_000)
    parent.send({"nice": os.nice(0), "threads": os.environ.get("OMP_NUM_THREADS")})
    raise RuntimeError("the last word")


def family(parent):
    """Start a process of its own, tell both ids, then wait for ever."""
    sleeper = subprocess.Popen(["sleep", "600"])
    parent.send({"pids": [os.getpid(), sleeper.pid]})
    time.sleep(600)


def leaving(parent):
    """Leave a process behind, in a session of its own, that keeps the pipes open."""
    import ctypes

    def live_on():
        ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)  # where a parent's death is inherited, too

    sleeper = subprocess.Popen(["sleep", "600"], start_new_session=True, preexec_fn=live_on)  # noqa: PLW1509 - it has no threads
    parent.send({"pid": sleeper.pid})
    os._exit(0)


def hosting(parent):
    """Be a server that runs a child, for a test that kills the server."""
    import asyncio

    from mataserver.processes.child import run_process

    async def host():
        async with run_process(family) as child:
            async for message in child.messages(dict):
                parent.send(message)
                await asyncio.sleep(600)

    asyncio.run(host())


def polite(parent):
    """Write a file when asked to end."""
    import signal

    def leave(_number, _frame):
        Path(parent.arguments[0]).write_text("left")
        sys.exit(0)

    signal.signal(signal.SIGTERM, leave)
    parent.send({"ready": True})
    time.sleep(600)


def reluctant(parent):
    """Write a file half a second after being asked to end."""
    import signal

    def leave(_number, _frame):
        time.sleep(0.5)
        Path(parent.arguments[0]).write_text("left")
        sys.exit(0)

    signal.signal(signal.SIGTERM, leave)
    parent.send({"ready": True})
    time.sleep(600)


def main():
    """Print the arguments: this module as a target."""
    sys.stdout.write(f"{sys.argv[1:]}\n")
