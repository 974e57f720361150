"""A virtual environment made from nothing, and the server that is installed in it."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
CLIENT = ROOT / "clients" / "python"
BROUGHT = (CLIENT, ROOT / "plugins" / "console", ROOT / "plugins" / "openai")
"""Our distributions that the core's own requires."""
KEY = "of-the-test"


@dataclass(frozen=True, slots=True)
class Environment:
    """The environment in ``folder``, and what its programs are run with."""

    folder: Path

    @classmethod
    def made(cls, folder, *packages):
        """Make an environment that holds the core, what it brings and ``packages``."""
        environment = cls.empty(folder)
        with tempfile.TemporaryDirectory() as wheels:
            for name, data in built().items():
                Path(wheels, name).write_bytes(data)
            environment.install(*Path(wheels).iterdir(), *packages)
        return environment

    @classmethod
    def empty(cls, folder):
        """Make an environment that holds nothing."""
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        return cls(folder)

    def install(self, *packages):
        """Install packages with pip."""
        pip = [sys.executable, "-m", "pip", "--python", self.folder / "bin" / "python", "install"]
        # The variable means the opposite of its value. Most of what is installed is never imported.
        uncompiled = {**os.environ, "PIP_NO_COMPILE": "0"}
        subprocess.run([*pip, "--quiet", *packages], check=True, env=uncompiled)

    def run(self, program, *arguments, directory, check=True):
        """Run a program of the environment in ``directory``; return what it printed."""
        ran = subprocess.run(
            [self.folder / "bin" / program, *arguments],
            env=_variables(directory),
            cwd=directory,
            capture_output=True,
            text=True,
            check=False,
        )
        assert not (check and ran.returncode), ran.stdout + ran.stderr
        return ran.stdout

    @contextlib.contextmanager
    def serving(self, directory):
        """Run ``mataserver serve`` in ``directory``; yield its URL. It must end well."""
        server = subprocess.Popen(
            [self.folder / "bin" / "mataserver", "serve"],
            env=_variables(directory),
            cwd=directory,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            yield next(word for word in server.stdout.readline().split() if word.startswith("http"))
        finally:
            server.send_signal(signal.SIGTERM)
            server.stdout.read()
            assert server.wait(timeout=30) == 0
            server.stdout.close()


@functools.cache
def built():
    """Return the wheels of the core and what it brings by name, built once."""
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    with tempfile.TemporaryDirectory() as wheels:
        environment = {**os.environ, "PIP_NO_COMPILE": "0"}
        subprocess.run([*pip, "--wheel-dir", wheels, *BROUGHT, ROOT], check=True, env=environment)
        return {each.name: each.read_bytes() for each in Path(wheels).iterdir()}


def _variables(directory):
    """Return the environment variables of a server with a data directory of its own."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MATA_", "PYTHONPATH"))
    }
    return {
        **kept,
        "MATA_SERVER_DATA_DIR": str(directory / "data"),
        "MATA_SERVER_API_KEY": KEY,
        "MATA_SERVER_PORT": "0",
    }


def ask(url, data=None, kind="application/json"):
    """Send a request with the key; return the decoded answer."""
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": kind}
    with urllib.request.urlopen(urllib.request.Request(url, data, headers)) as answer:
        return json.load(answer)
