"""A server in a process of its own, asked without an event loop: it can be killed.

And a job that stands still at a stage: how quick the machine is decides nothing then.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import NamedTuple

import psutil

HERE = Path(__file__).parent
_BOUNDARY = "an-edge-of-a-form"


class Answer(NamedTuple):
    """What was answered."""

    status: int
    headers: dict
    body: bytes

    @property
    def json(self):
        """The decoded body."""
        return json.loads(self.body)


class Server:
    """A server that runs until ``kill``."""

    def __init__(self, folder, **chosen):
        command = [sys.executable, str(HERE / "run_reconstruct.py"), str(folder)]
        self.process = subprocess.Popen(
            [*command, json.dumps(chosen)], stdout=subprocess.PIPE, text=True, cwd=folder
        )
        self.url = self.process.stdout.readline().strip()
        assert self.url, "the server did not start"
        self.token = "ada-key"

    def kill(self):
        """Kill it as kill -9 does."""
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def ask(self, method, path, *, token=None, body=None, headers=None):
        """Return what is answered."""
        shown = self.token if token is None else token
        given = {"Authorization": f"Bearer {shown}"} if shown else {}
        request = urllib.request.Request(
            self.url + path, body, {**given, **(headers or {})}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return Answer(response.status, dict(response.headers), response.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, dict(error.headers), error.read())

    def send(self, archive, path="/upload", **fields):
        """Send an archive in a form."""
        parts = [
            f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in fields.items()
        ]
        head = (
            f"--{_BOUNDARY}\r\nContent-Disposition: form-data; "
            'name="file"; filename="photos.zip"\r\nContent-Type: application/zip\r\n\r\n'
        )
        body = "".join([*parts, head]).encode() + archive + f"\r\n--{_BOUNDARY}--\r\n".encode()
        kind = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}
        return self.ask("POST", path, body=body, headers=kind)

    def until(self, path, true, seconds=100.0):
        """Ask until the answer is as wanted; return it."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            answer = self.ask("GET", path)
            if true(answer):
                return answer
            time.sleep(0.05)
        raise TimeoutError(path)


STAGES = {
    "extracting": "work/photos/*.jpg",
    "matching": "work/pairs.txt",
    "triangulating": "work/mapping/models",
    "decimating": "output/*.ply*",
}
"""What a stage has written when it is under way."""


def children_of_jobs(server):
    """Return the processes of a server's jobs."""
    found = []
    for each in psutil.Process(server).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if "mataserver_jobs.child" in " ".join(each.cmdline()):
                found.append(each)
    return found


@contextlib.contextmanager
def standing_still(server, folder, stage, seconds=60.0):
    """Stop the one job of a server as soon as a stage is under way; give its process.

    It goes on at the context's end, if it is there still.
    """
    end = time.monotonic() + seconds
    while not any(folder.glob(STAGES[stage])):
        if time.monotonic() > end:
            raise TimeoutError(stage)
        time.sleep(0.001)  # stages are short
    (child,) = children_of_jobs(server)
    child.suspend()
    try:
        yield child
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.resume()


def until_asked_to_end(child, seconds=60.0):
    """Wait until a process that stands still has been sent SIGTERM."""
    end = time.monotonic() + seconds
    while not _pending(child.pid) >> (signal.SIGTERM - 1) & 1:
        if time.monotonic() > end:
            raise TimeoutError("nobody asked it to end")
        time.sleep(0.005)


def stand_still(child):
    """Stop a process and wait until all its threads have: one that runs takes signals yet."""
    child.suspend()
    end = time.monotonic() + 60.0
    while any(
        path.read_text().rpartition(")")[2].split()[0] != "T"
        for path in Path(f"/proc/{child.pid}/task").glob("*/stat")
    ):
        if time.monotonic() > end:
            raise TimeoutError("it does not stand still")
        time.sleep(0.005)


def _pending(pid):
    """Return the signals that wait for a process, as bits (proc(5))."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("ShdPnd:")[2].split()[0], 16)
