"""What every engine holds: the same assertions for a child process, a thread, and a cluster."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import time

import numpy as np
import pytest
import pytest_asyncio

from conftest import picture
from mataserver import Classification, ClassifyResult, MataError, Params
from mataserver.contract.backend import LoadContext, ModelSpec
from mataserver.engines.process import ProcessEngine
from mataserver.engines.thread import ThreadEngine
from mataserver.engines.work import Assignment, Job, Placement
from mataserver.engines.worker_errors import NotDispatchedError, WorkerDied
from slow_pictures import slow_jpeg
from stand_in_cluster import StandInCluster

pytestmark = pytest.mark.asyncio(loop_scope="module")

PLACE = Placement("contract")
SOON = 60.0


class Contract:
    """Answers with the width of a picture; a narrow one says what to do."""

    def __init__(self, gate):
        self._gate = gate
        self._seen = []

    def predict(self, images, _params):
        """Answer each image, once the gate is open."""
        while not self._gate.exists():
            time.sleep(0.005)
        widths = [image.shape[1] for image in images]
        self._seen += widths
        for width in widths:
            _behave(width)
        return [ClassifyResult([Classification(str(width), 1.0)]) for width in widths]

    def stream(self, image, _params):
        """Yield words, then the answer."""
        for word in ("a", "b", "c"):
            self._seen.append(word)
            yield word
        yield ClassifyResult([Classification(str(image.shape[1]), 1.0)])

    def echo(self, *args, **kwargs):
        """Return what it was given."""
        return [args, kwargs]

    def count(self, stop):
        """Yield numbers, for ever if need be."""
        for number in range(stop):
            self._seen.append(number)
            yield number

    def seen(self):
        """Return the pictures, words and numbers so far, in order."""
        return self._seen


RAISES, HANGS, EXITS = 1, 2, 3


def _behave(width):
    if width == RAISES:
        raise RuntimeError("secret")
    if width == HANGS:
        time.sleep(60)
    if width == EXITS:
        os._exit(5)


class Small(Contract):
    """Wants its pictures no larger than this."""

    input_size = (64, 64)


class Track:
    """Counts the frames of a session."""

    def __init__(self):
        self._frames = 0

    def step(self, image):
        """Answer a frame."""
        self._frames += 1
        return ClassifyResult([Classification(str(self._frames), 1.0)])


class Tracking(Contract):
    """Keeps the state of sessions."""

    def session(self, _params):
        """Return the state of a new one."""
        return Track()


def load(_spec, context):
    """Load the model that answers."""
    return Contract(context.data_dir / "gate")


def load_small(_spec, context):
    """Load the model that wants small pictures."""
    return Small(context.data_dir / "gate")


def load_tracking(_spec, context):
    """Load the model that keeps state."""
    return Tracking(context.data_dir / "gate")


def load_refusing(_spec, _context):
    """Refuse to load."""
    raise MataError("a package is missing", status=503)


@pytest_asyncio.fixture(params=["process", "thread", "ray"], loop_scope="module", scope="module")
async def engine(request, tmp_path_factory):
    """Each engine, once for all tests; of a cluster there are two nodes."""
    async with contextlib.AsyncExitStack() as stack:
        if request.param == "ray":
            cluster = StandInCluster(tmp_path_factory.mktemp("contract") / "cluster")
            await cluster.open("one", "two")
            stack.push_async_callback(cluster.close)
            made = cluster.engine()
        else:
            made = {"process": ProcessEngine, "thread": ThreadEngine}[request.param]()
            stack.push_async_callback(made.close)
        yield made


@pytest.fixture
def assignment(tmp_path):
    """The assignment of the model that answers."""
    (tmp_path / "gate").touch()
    context = LoadContext(None, "cpu", "auto", 1, tmp_path, logging.getLogger("contract"))
    spec = ModelSpec("contract", "classify", "pip")
    return Assignment(load, Params, spec, context, 2, infer_timeout=5.0)


@contextlib.asynccontextmanager
async def started(engine, assignment):
    """Give a worker; it is closed in the end."""
    async with asyncio.timeout(SOON):
        worker = await engine.start(assignment, PLACE)
    try:
        yield worker
    finally:
        await worker.close()


def job(width=16, session=None):
    """Return a job with a picture of that width."""
    return Job(picture(width=width, box=(0, 0, 1, 1)), b"\x80", session=session)


async def answers(worker, *jobs):
    """Run a batch; return its outcomes. Raises what it was answered with."""
    future = asyncio.get_running_loop().create_future()
    worker.infer(list(jobs), future.set_result)
    async with asyncio.timeout(SOON):
        found = await future
    if isinstance(found, MataError):
        raise found
    return found


def labels(outcomes):
    """Return the label of each outcome."""
    return [json.loads(each.whole())["classifications"][0]["label"] for each in outcomes]


async def test_work_is_done(engine, assignment):
    """Batches, calls and streams come back whole and in order; a failure is its own job's alone."""
    array = np.arange(1 << 17, dtype=np.float32).reshape(2, -1)
    async with started(engine, assignment) as worker:
        assert worker.is_alive
        assert not worker.report.stateful
        batches = await asyncio.gather(*(answers(worker, job(w), job(w + 1)) for w in (10, 20, 30)))
        assert [labels(each) for each in batches] == [["10", "11"], ["20", "21"], ["30", "31"]]
        (failed,) = await answers(worker, job(RAISES))
        assert (failed.failure.status, "secret" in failed.failure.detail) == (500, False)
        (broken,) = await answers(worker, Job(b"no picture", b"\x80"))
        assert broken.failure.status == 400
        [[echoed, text], named] = await worker.call("echo", (array, "word"), {"more": [1, None]})
        assert np.array_equal(echoed, array)
        assert (text, named) == ("word", {"more": [1, None]})
        assert [n async for n in worker.stream("count", (5,), {})] == [0, 1, 2, 3, 4]
        with pytest.raises(MataError):
            await worker.call("nothing_of_that_name", (), {})
        *words, last = [item async for item in worker.generate(job(40))]
        assert (words, labels([last])) == (["a", "b", "c"], ["40"])
    assert not worker.is_alive
    with pytest.raises(WorkerDied):
        worker.infer([job()], print)


async def test_what_nobody_waits_for_is_not_done(engine, assignment, tmp_path):
    """A dropped batch costs the model nothing; a stream that is closed is computed no further."""
    async with started(engine, assignment) as worker:
        (tmp_path / "gate").unlink()
        first = asyncio.create_task(answers(worker, job(10)))
        await asyncio.sleep(0.1)
        dropped = []
        drop = worker.infer([job(11)], dropped.append)
        last = asyncio.create_task(answers(worker, job(12)))
        await asyncio.sleep(0.1)
        drop()
        await asyncio.sleep(0.1)
        (tmp_path / "gate").touch()
        assert labels(await first) + labels(await last) == ["10", "12"]
        assert isinstance(dropped[0], MataError)
        async with contextlib.aclosing(worker.stream("count", (1000,), {})) as numbers:
            async for number in numbers:
                if number == 3:
                    break
        assert await worker.call("seen", (), {}) == [10, 12, 0, 1, 2, 3]


async def test_sessions_keep_their_state(engine, assignment):
    """Each session counts its own frames, and begins anew once it was closed."""
    async with started(engine, dataclasses.replace(assignment, load=load_tracking)) as worker:
        assert worker.report.stateful
        told = [labels(await answers(worker, job(session=each))) for each in "aabab"]
        assert told == [["1"], ["2"], ["1"], ["3"], ["2"]]
        await worker.close_session("a")
        (fresh,) = await answers(worker, job(session="a"))
        assert (labels([fresh]), fresh.is_new_session) == (["1"], True)


async def test_a_load_that_is_refused_says_why(engine, assignment):
    """What the backend says of its load is what the caller is told."""
    with pytest.raises(MataError, match="a package is missing") as caught:
        async with asyncio.timeout(SOON):
            await engine.start(dataclasses.replace(assignment, load=load_refusing), PLACE)
    assert caught.value.status == 503


async def test_a_hang_is_noticed(engine, assignment):
    """A worker that owes an answer for too long is given up, and blamed; the next one serves."""
    hasty = dataclasses.replace(assignment, infer_timeout=0.6)
    async with started(engine, hasty) as worker:
        deaths = []
        worker.on_death(deaths.append)
        with pytest.raises(WorkerDied, match=r"no answer within 0\.6 s"):
            await answers(worker, job(HANGS))
        assert not worker.is_alive
        assert [death.is_model_fault for death in deaths] == [True]
    async with started(engine, assignment) as worker:
        assert labels(await answers(worker, job())) == ["16"]


async def test_a_hang_costs_its_own_request_only(engine, assignment):
    """What was sent after it can go to the next worker, also if its image is decoded already."""
    hasty = dataclasses.replace(assignment, infer_timeout=0.6)
    async with started(engine, hasty) as worker:
        hanging, behind = (
            asyncio.ensure_future(answers(worker, each)) for each in (job(HANGS), job())
        )
        with pytest.raises(WorkerDied, match=r"no answer within 0\.6 s"):
            await hanging
        with pytest.raises(NotDispatchedError):
            await behind


async def test_an_image_that_takes_too_long_is_refused(engine, assignment):
    """It is its sender's, 400, and the model is not blamed for it."""
    given = dataclasses.replace(
        assignment, context=dataclasses.replace(assignment.context, decode_timeout=0.2)
    )
    async with started(engine, given) as worker:
        deaths = []
        worker.on_death(deaths.append)
        with pytest.raises(MataError, match="too long to decode") as caught:
            await answers(worker, Job(slow_jpeg(), b"\x80"))
        assert caught.value.status == 400
        assert [death.is_model_fault for death in deaths] == [False]


async def test_a_large_image_is_decoded_smaller(engine, assignment):
    """A model that states its size sees a large JPEG at an eighth; another one sees all of it."""
    given = dataclasses.replace(assignment, scaled_decode=True)
    large = Job(picture(width=2400, height=1600, form="JPEG"), b"\x80")
    for loads, width in ((load, "2400"), (load_small, "300")):
        async with started(engine, dataclasses.replace(given, load=loads)) as worker:
            assert labels(await answers(worker, large)) == [width]


@pytest.mark.parametrize("engine", ["process", "ray"], indirect=True)
async def test_a_crash_is_its_own_workers(engine, assignment):
    """A process that ends is told to whoever waits, and blamed; its neighbour goes on."""
    await a_crash(engine, assignment)


async def a_crash(engine, assignment):
    """Have one of two workers end, and look at both."""
    async with started(engine, assignment) as neighbour, started(engine, assignment) as worker:
        deaths = []
        worker.on_death(deaths.append)
        with pytest.raises(WorkerDied) as caught:
            await answers(worker, job(EXITS))
        assert caught.value.status == 500
        assert [death.is_model_fault for death in deaths] == [True]
        assert labels(await answers(neighbour, job())) == ["16"]
