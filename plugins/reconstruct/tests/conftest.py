"""Fixtures: rendered photographs, and reconstructions in processes of their own."""

from __future__ import annotations

import fcntl
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from mataserver_database.fixtures import empty_database, postgres, url
from mataserver_reconstruct import local_process
from openapi_watch import documented_answers

__all__ = [
    "begin",
    "database",
    "documented_answers",
    "empty_database",
    "once",
    "orbit",
    "postgres",
    "reconstructed",
    "scene",
    "strip",
    "url",
    "whole",
]

sys.path.append(str(Path(__file__).parent))  # behind all others, whose tests have a conftest too

import planted_scene
import rendered


class Process:
    """A reconstruction in a process of its own, followed line by line."""

    def __init__(self, source, folder, *, settings=None, **spec):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", local_process.__name__]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        request = local_process.ProcessRequest(str(folder), str(source), spec, settings or {})
        self.process.stdin.write(msgspec.json.encode(request) + b"\n")
        self.process.stdin.flush()
        self.steps = []

    def until(self, stage, done=0.0):
        """Read lines until a stage is that far."""
        for line in self.lines():
            if (
                isinstance(line, local_process.ProgressMessage)
                and line.stage == stage
                and line.done >= done
            ):
                return line
        raise AssertionError(f"it ended before {stage}")

    def lines(self):
        """Yield what it tells."""
        for raw in self.process.stdout:
            line = msgspec.json.decode(raw, type=local_process.Message)
            if isinstance(line, local_process.ProgressMessage):
                self.steps.append(line)
            yield line

    def end(self):
        """Return how it ends."""
        *_, last = self.lines()
        self.close()
        assert isinstance(last, local_process.EndMessage)
        return last

    def close(self):
        """Leave nothing of it."""
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture
def begin():
    """Return a function that begins a reconstruction; none outlives the test."""
    begun = []

    def start(source, folder, **spec):
        begun.append(Process(source, folder, **spec))
        return begun[-1]

    yield start
    for each in begun:
        each.close()


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """``once(name, make)`` is what ``make(folder)`` returns, called by one worker for all of them.

    Tests only read what is in the folder: others read it at the same time.
    """
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent

    def made(name, make):
        folder, told = base / name, base / f"{name}.pickle"
        with (base / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not told.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a worker that has died
                folder.mkdir()
                told.write_bytes(pickle.dumps(make(folder)))
        return pickle.loads(told.read_bytes())

    return made


@pytest.fixture(scope="session")
def orbit(once):
    """Sixteen photographs around a scene, 800 by 600: their folder and poses."""
    return once("orbit", lambda folder: (folder, rendered.orbit(folder, 1, 16, "a_")))


@pytest.fixture(scope="session")
def reconstructed(tmp_path_factory):
    """Return a function that makes a whole reconstruction: folder, end and steps."""

    def made(source, **asked):
        process = Process(source, tmp_path_factory.mktemp("whole"), **asked)
        return process.folder, process.end(), process.steps

    return made


@pytest.fixture(scope="session")
def whole(orbit, reconstructed):
    """The reconstruction of those: folder, end and steps."""
    return reconstructed(orbit[0])


@pytest.fixture(scope="session")
def scene(once):
    """Six small photographs, a step apart, and their truth: enough for a model, and quick."""
    return once("scene", planted_scene.plant)


@pytest.fixture(scope="session")
def strip(scene):
    """The folder of those photographs."""
    return scene.photos


@pytest.fixture
def database(empty_database):
    """An empty database of each kind."""
    return empty_database
