"""Accidents of workers that nobody planned: each is noticed at once and answered."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import logging
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from conftest import picture
from mataserver import Classification, ClassifyResult, MataError, Params, decode_image
from mataserver.contract.backend import LoadContext, ModelSpec
from mataserver.engines.process import ProcessEngine
from mataserver.engines.thread import ThreadEngine
from mataserver.engines.work import Assignment, Job, Placement
from mataserver.engines.worker_errors import (
    DecodeTimeoutError,
    NotDispatchedError,
    WorkerDied,
    WorkerReplacedError,
)
from slow_pictures import slow_jpeg

SOON = 5.0

PLACE = Placement("accidents")


@dataclasses.dataclass
class Explosive:
    """Can be made here, and in no other process."""

    home: int

    def __post_init__(self):
        if os.getpid() != self.home:
            raise RuntimeError("not here")


def private():
    """Return the kB of memory that this process shares with no other."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Private_Dirty")).split()[1])


class Careless:
    """A model that does what no model should."""

    def predict(self, images, _params):
        """Answer as a model should, but for pictures of one pixel."""
        if any(image.shape[:2] == (1, 1) for image in images):
            sys.exit(1)
        return [ClassifyResult([Classification("thing", 1.0)]) for _ in images]

    def echo(self, value):
        """Return the value."""
        return value

    def numbers(self, values):
        """Yield the values."""
        yield from values

    def fork_and_die(self):
        """Leave a process behind that holds everything open."""
        if os.fork() == 0:
            time.sleep(2 * SOON)
            os._exit(0)
        os._exit(3)

    def copied(self):
        """Look for garbage; return by how many kB that made this process's own memory grow."""
        before = private()
        gc.collect()
        return private() - before

    def leave(self):
        """End the thread, or the process."""
        sys.exit(1)


def load(_spec, _context):
    """Load the model."""
    return Careless()


class Deadly(Careless):
    """A model that kills its process, whatever it is asked."""

    def predict(self, images, _params):
        """Die."""
        os.kill(os.getpid(), signal.SIGKILL)

    def echo(self, value):
        """Die."""
        os.kill(os.getpid(), signal.SIGKILL)

    def numbers(self, values):
        """Yield what there is, then die."""
        yield from values
        os.kill(os.getpid(), signal.SIGKILL)


def load_deadly(_spec, _context):
    """Load it."""
    return Deadly()


def leave(_spec, _context):
    """End the thread instead of loading."""
    sys.exit(1)


def assignment(tmp_path, how=load):
    """Return what a worker needs; its patience outlasts the test."""
    log = logging.getLogger("accidents")
    context = LoadContext(None, "cpu", "auto", 0, tmp_path, log)
    spec = ModelSpec("careless", "classify", "pip")
    return Assignment(how, Params, spec, context, 1, infer_timeout=60.0)


@pytest.fixture
async def worker(tmp_path):
    """A worker process with the careless model."""
    engine = ProcessEngine()
    started = await engine.start(assignment(tmp_path), PLACE)
    yield started
    await started.close()
    await engine.close()


async def test_arguments_that_cannot_travel_are_the_calls_own_failure(worker):
    """The call fails in a sentence, also at a stream; the worker lives and hears the next one."""
    async with asyncio.timeout(SOON):
        with pytest.raises(MataError, match="cannot be read: RuntimeError"):
            await worker.call("echo", (Explosive(os.getpid()),), {})
        with pytest.raises(MataError, match="cannot be read: RuntimeError"):
            await anext(worker.stream("numbers", ([Explosive(os.getpid())],), {}))
        with pytest.raises(MataError, match="Careless cannot be sent"):
            await worker.call("echo", (Careless(),), {})
        assert await worker.call("echo", (7,), {}) == 7


async def test_what_travels_comes_back_the_same(worker):
    """Tuples, arrays large and small and objects go to a worker and back, by calls and streams."""
    values = [(1, "two"), {"a": b"z" * 100_000}, np.arange(3), np.zeros((900, 900), np.float32)]
    async with asyncio.timeout(SOON):
        found = [await worker.call("echo", (), {"value": each}) for each in values]
        found += [each async for each in worker.stream("numbers", (values,), {})]
    assert found[0] == found[4] == (1, "two")
    assert found[1] == found[5] == values[1]
    for given, first, second in zip(values[2:], found[2:4], found[6:], strict=True):
        assert np.array_equal(first, given)
        assert np.array_equal(second, given)
        assert first.dtype == given.dtype


async def test_a_look_for_garbage_copies_nothing_that_workers_share(worker):
    """What the zygote imported stays shared, and is gone through by nobody again."""
    async with asyncio.timeout(SOON):
        assert await worker.call("copied", (), {}) < 1000


async def test_a_death_is_noticed_though_a_child_holds_the_socket(worker):
    """The zygote tells of the death; nobody waits for the patience to run out."""
    async with asyncio.timeout(SOON):
        with pytest.raises(WorkerDied):
            await worker.call("fork_and_die", (), {})
    assert not worker.is_alive


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


async def test_sys_exit_in_a_process_is_a_failure_of_its_request(tmp_path):
    """Libraries call it where they mean to raise: the worker, and what it holds, goes on."""
    engine = ProcessEngine()
    worker = await engine.start(assignment(tmp_path), PLACE)
    async with asyncio.timeout(SOON):
        with pytest.raises(MataError, match="The model failed: SystemExit") as failed:
            await worker.call("leave", (), {})
        assert not isinstance(failed.value, WorkerDied)
        answers = asyncio.get_running_loop().create_future()
        worker.infer([Job(picture(1, 1), b"\x80"), Job(picture(), b"\x80")], answers.set_result)
        first, second = await answers
        assert (first.failure.status, second.failure) == (500, None)
        assert worker.is_alive
        with pytest.raises(MataError, match="could not be loaded: SystemExit"):
            await engine.start(assignment(tmp_path, leave), PLACE)
    await worker.close()
    await engine.close()


class Looker(Careless):
    """Decodes what a service gives it."""

    def look(self, data):
        """Return the width of an encoded image."""
        return decode_image(data, 50_000_000).shape[1]


def load_looker(_spec, _context):
    """Load the model."""
    return Looker()


@pytest.mark.parametrize("engine_type", [ProcessEngine, ThreadEngine])
async def test_a_slow_image_in_a_call_is_that_calls_own(tmp_path, engine_type):
    """A method that decodes for too long gets 400; what waits is told to ask again; no blame."""
    engine = engine_type()
    given = assignment(tmp_path, load_looker)
    impatient = dataclasses.replace(given.context, decode_timeout=0.2)
    given = dataclasses.replace(given, context=impatient)
    started = await engine.start(given, PLACE)
    deaths = []
    started.on_death(deaths.append)
    async with asyncio.timeout(2 * SOON):
        slow = asyncio.create_task(started.call("look", (slow_jpeg(),), {}))
        await asyncio.sleep(0.05)
        with pytest.raises(WorkerReplacedError) as displaced:
            await started.call("echo", (7,), {})
        with pytest.raises(DecodeTimeoutError, match=r"over 0\.2 s"):
            await slow
    assert (displaced.value.status, displaced.value.retry_after) == (503, 1)
    assert [death.is_model_fault for death in deaths] == [False]
    assert not started.is_alive
    await started.close()
    await engine.close()


@pytest.mark.parametrize("ask", ["infer", "call", "stream", "generate"])
async def test_what_a_dead_worker_had_not_taken_can_go_to_the_next_one(worker, ask):
    """It is not to blame, whatever it is; what the worker had taken died with it."""
    await stop(worker.report.pid)
    asked = asyncio.ensure_future(asking(worker, ask))
    await asyncio.sleep(0)
    os.kill(worker.report.pid, signal.SIGKILL)
    async with asyncio.timeout(SOON):
        with pytest.raises(NotDispatchedError) as caught:
            await asked
        assert (caught.value.status, caught.value.retry_after) == (503, 1)
        with pytest.raises(NotDispatchedError):
            await asking(worker, ask)


@pytest.mark.parametrize("ask", ["infer", "call", "stream"])
async def test_what_a_dead_worker_had_taken_died_with_it(tmp_path, ask):
    """It may be what killed it: nobody else is asked, also where more was behind it."""
    engine = ProcessEngine()
    worker = await engine.start(assignment(tmp_path, load_deadly), PLACE)
    async with asyncio.timeout(SOON):
        with pytest.raises(WorkerDied) as caught:
            await asking(worker, ask)
    assert type(caught.value) is WorkerDied
    await engine.close()


async def stop(pid):
    """Stop a process; each of its threads stops at a time of its own."""
    os.kill(pid, signal.SIGSTOP)
    async with asyncio.timeout(SOON):
        while any(state(path) != "T" for path in Path(f"/proc/{pid}/task").glob("*/stat")):
            await asyncio.sleep(0.001)


def state(path):
    """Return the letter of a thread's state (proc(5))."""
    return path.read_text().rpartition(")")[2].split()[0]


async def asking(worker, ask):
    """Ask a worker for something, and wait for it."""
    if ask == "call":
        return await worker.call("echo", (7,), {})
    if ask == "stream":
        return [each async for each in worker.stream("numbers", ([1],), {})]
    if ask == "generate":
        return [each async for each in worker.generate(Job(b"", b"\x80"))]
    future = asyncio.get_running_loop().create_future()
    worker.infer([Job(picture(), b"\x80")], future.set_result)
    answer = await future
    if isinstance(answer, MataError):
        raise answer
    return answer
