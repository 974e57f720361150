"""A server in a process of its own, asked without an event loop: it can be killed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import NamedTuple

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
