"""Accidents of workers that nobody planned: each is noticed at once and answered."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time

import pytest

from mataserver import Classification, ClassifyResult, MataError, Params
from mataserver.contract import LoadContext, ModelSpec
from mataserver.engines import wire
from mataserver.engines.process import ProcessEngine, ProcessWorker
from mataserver.engines.thread import ThreadEngine
from mataserver.engines.work import Assignment, Job, Placement, WorkerDied

SOON = 5.0
PLACE = Placement("accidents")


class Explosive:
    """Pickles here and cannot be unpickled in another process."""

    def __reduce__(self):
        return _explode, (os.getpid(),)


def _explode(pid):
    if os.getpid() != pid:
        raise RuntimeError("not here")


class Careless:
    """A model that does what no model should."""

    def predict(self, images, _params):
        """Answer as a model should."""
        return [ClassifyResult([Classification("thing", 1.0)]) for _ in images]

    def echo(self, value):
        """Return the value."""
        return value

    def fork_and_die(self):
        """Leave a process behind that holds everything open."""
        if os.fork() == 0:
            time.sleep(2 * SOON)
            os._exit(0)
        os._exit(3)

    def leave(self):
        """End the thread, or the process."""
        sys.exit(1)


def load(_spec, _context):
    """Load the model."""
    return Careless()


def leave(_spec, _context):
    """End the thread instead of loading."""
    sys.exit(1)


def assignment(tmp_path, how=load):
    """Return what a worker needs; its patience outlasts the test."""
    log = logging.getLogger("accidents")
    context = LoadContext(None, "cpu", "auto", 0, tmp_path, log)
    spec = ModelSpec("careless", "classify", "pip")
    return Assignment(how, Params, spec, context, 1_000_000, 1, patience=60.0)


@pytest.fixture
async def worker(tmp_path):
    """A worker process with the careless model."""
    engine = ProcessEngine()
    started = await engine.start(assignment(tmp_path), PLACE)
    yield started
    await started.close()
    await engine.close()


async def test_arguments_that_cannot_be_unpickled_are_the_calls_own_failure(worker):
    """The call fails, the worker lives and hears the next one."""
    async with asyncio.timeout(SOON):
        with pytest.raises(MataError):
            await worker.call("echo", (Explosive(),), {})
        assert await worker.call("echo", (7,), {}) == 7


async def test_a_death_is_noticed_though_a_child_holds_the_socket(worker):
    """The zygote tells of the death; nobody waits for the patience to run out."""
    async with asyncio.timeout(SOON):
        with pytest.raises(WorkerDied):
            await worker.call("fork_and_die", (), {})
    assert not worker.alive


async def test_sys_exit_in_a_thread_is_a_failure_of_its_request(tmp_path, caplog):
    """The thread goes on; a load that does it fails."""
    engine = ThreadEngine()
    threaded = await engine.start(assignment(tmp_path), PLACE)
    async with asyncio.timeout(SOON):
        with pytest.raises(MataError):
            await threaded.call("leave", (), {})
        assert await threaded.call("echo", (7,), {}) == 7
        with pytest.raises(MataError):
            await engine.start(assignment(tmp_path, leave), PLACE)
    await threaded.close()


class Transport:
    """Takes what is written to a worker."""

    def __init__(self):
        self.aborted = False

    def writelines(self, buffers):
        """Take buffers."""

    def abort(self):
        """Note it."""
        self.aborted = True


async def test_an_answer_of_the_wrong_shape_fails_its_batch():
    """A worker that answers two images with one result costs them an error, and no one hangs."""
    sick = ProcessWorker("sick", 60.0)
    sick.connection_made(Transport())
    answers = []
    sick.infer([Job(b"a", b""), Job(b"b", b"")], answers.append)
    sick.data_received(b"".join(wire.frame(wire.Answer(1, []))))
    assert isinstance(answers[0], WorkerDied)


async def test_a_message_that_cannot_be_read_ends_the_worker(caplog):
    """What is no message of ours kills the worker, and whoever waits is told."""
    sick = ProcessWorker("sick", 60.0)
    transport = Transport()
    sick.connection_made(transport)
    answers = []
    sick.infer([Job(b"a", b"")], answers.append)
    sick.data_received(wire.PREFIX.pack(4, 0) + b"\xff\xff\xff\xff")
    assert isinstance(answers[0], WorkerDied)
    assert transport.aborted
    assert not sick.alive
