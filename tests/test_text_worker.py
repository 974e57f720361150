"""Whole texts are run as streams: one after the other, and none for a caller that has left."""

from __future__ import annotations

import asyncio

import pytest

from mataserver.engines.work import Job, LoadReport, Outcome, Timing
from mataserver.engines.worker_errors import (
    DecodeTimeoutError,
    MemoryLimitError,
    NodeDied,
    NotDispatchedError,
    WorkerDied,
    WorkerReplacedError,
)
from mataserver.errors import MataError, Unavailable
from mataserver.serving import text_worker
from mataserver.serving.batching import Batcher


class Writer:
    """A worker that writes as many pieces as the test lets it, and notes what began and ended."""

    def __init__(self):
        self.report = LoadReport(stateful=False, pid=1, streams=True)
        self.width = 1
        self.is_alive = True
        self.begun = []
        self.ended = []
        self.failure = None
        self.pieces = asyncio.Semaphore(0)

    def on_suspect(self, callback):
        pass

    async def generate(self, job):
        self.begun.append(job.image)
        try:
            if self.failure is not None:
                raise self.failure
            for _ in range(3):
                await self.pieces.acquire()
                yield "piece"
            yield Outcome(job.image, Timing(infer=1.0))
        finally:
            self.ended.append(job.image)

    def write(self, texts=1):
        """Let the worker finish so many texts."""
        for _ in range(3 * texts):
            self.pieces.release()


@pytest.fixture
async def writer():
    """The worker."""
    return Writer()


@pytest.fixture
async def made(writer):
    """A batcher of a model that writes text."""
    return batcher(writer, 1)


def batcher(writer, max_batch):
    """Return a batcher of a model that writes so many texts at once."""
    worker, size = text_worker.for_batcher(writer, "vlm", max_batch)
    return Batcher(worker, max_batch=size, max_wait=0.0, queue_limit=8)


def submit(made, *names):
    """Submit a job per name, in order."""
    return [asyncio.create_task(made.submit(Job(name, b""))) for name in names]


async def settle():
    """Let every task go on until it waits."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_texts_are_written_one_after_the_other(writer, made):
    """Each caller gets its own outcome; the next text begins when the one before has ended."""
    jobs = submit(made, b"a", b"b", b"c")
    await settle()
    assert writer.begun == [b"a"]
    writer.write()
    await settle()
    assert (writer.ended, writer.begun) == ([b"a"], [b"a", b"b"])
    writer.write(2)
    assert [outcome.body for outcome, _ in await asyncio.gather(*jobs)] == [b"a", b"b", b"c"]
    assert not made.active


async def test_as_many_are_written_at_once_as_there_are_replicas(writer, made):
    """The replicas of a model write texts of their own."""
    writer.width = 2
    jobs = submit(made, b"a", b"b", b"c")
    await settle()
    assert writer.begun == [b"a", b"b"]
    writer.write(3)
    await asyncio.gather(*jobs)


async def test_a_text_that_nobody_waits_for_ends(writer, made):
    """A caller that leaves ends its text, whose place the next one takes at once."""
    jobs = submit(made, b"a", b"b")
    await settle()
    jobs[0].cancel()
    await settle()
    assert (writer.ended, writer.begun) == ([b"a"], [b"a", b"b"])
    writer.write()
    assert (await jobs[1])[0].body == b"b"
    assert not made.active


@pytest.mark.parametrize("left", [1, 2])
async def test_a_text_that_nobody_waits_for_is_not_begun(writer, made, left):
    """A caller that leaves before its turn, already handed on or still queued, costs nothing."""
    names = [b"a", b"b", b"c"]
    jobs = submit(made, *names)
    await settle()
    jobs[left].cancel()
    writer.write(2)
    await asyncio.wait(jobs)
    del names[left]
    assert writer.begun == writer.ended == names
    assert not made.active


async def test_a_caller_that_leaves_at_once(writer):
    """A text that is cancelled before its task ran keeps nothing busy."""
    worker, _ = text_worker.for_batcher(writer, "vlm", 1)
    answers = []
    worker.infer([Job(b"a", b"")], answers.append)()
    await settle()
    assert (len(answers), type(answers[0])) == (1, Unavailable)
    assert writer.begun == []
    worker.infer([Job(b"b", b"")], answers.append)
    writer.write()
    await settle()
    assert answers[1][0].body == b"b"


@pytest.mark.parametrize("failure", [WorkerDied("gone"), NotDispatchedError()])
async def test_a_failure_is_the_caller_s(writer, made, failure):
    """What the worker raises reaches the caller, and the next text is written."""
    writer.failure = failure
    with pytest.raises(type(failure)):
        await made.submit(Job(b"a", b""))
    writer.failure = None
    writer.write()
    assert (await made.submit(Job(b"b", b"")))[0].body == b"b"


@pytest.mark.parametrize(
    ("failure", "lost"),
    [
        (DecodeTimeoutError(10.0, 0), WorkerReplacedError),
        (MemoryLimitError(), WorkerReplacedError),
        (NodeDied(), WorkerReplacedError),
        (WorkerDied("it hung"), NotDispatchedError),
    ],
)
async def test_texts_that_wait_when_the_worker_ends_are_told_why(writer, made, failure, lost):
    """They learn whether another's image ended it: then they may move on more often."""

    async def generate(job):
        if not writer.is_alive:
            raise NotDispatchedError
        writer.begun.append(job.image)
        await writer.pieces.acquire()
        writer.is_alive = False
        raise failure
        yield

    writer.generate = generate
    jobs = submit(made, b"a", b"b", b"c", b"d")
    await settle()
    writer.pieces.release()
    answers = await asyncio.gather(*jobs, return_exceptions=True)
    assert [type(each) for each in answers] == [type(failure), lost, lost, lost]
    assert writer.begun == [b"a"]
    assert not made.active


@pytest.mark.parametrize("surprise", [TypeError("surprise"), SystemExit("surprise")])
async def test_a_worker_that_fails_in_a_way_of_its_own_hangs_nobody(writer, made, caplog, surprise):
    """An exception that no worker should raise is an error for its text."""
    writer.failure = surprise
    with pytest.raises(MataError, match="The model failed"):
        await made.submit(Job(b"a", b""))
    assert "unexpected failure of a worker" in caplog.text


async def test_as_many_are_written_at_once_as_a_batch_has(writer):
    """Each ends by itself, or is given up by itself, and the next takes its place at once."""
    made = batcher(writer, 2)
    gates = {name: asyncio.Event() for name in (b"a", b"b", b"c", b"d")}

    async def generate(job):
        writer.begun.append(job.image)
        try:
            await gates[job.image].wait()
            yield Outcome(job.image, Timing(infer=1.0))
        finally:
            writer.ended.append(job.image)

    writer.generate = generate
    jobs = submit(made, *gates)
    await settle()
    assert writer.begun == [b"a", b"b"]
    gates[b"b"].set()
    await settle()
    assert jobs[1].done()
    assert writer.begun == [b"a", b"b", b"c"]
    jobs[0].cancel()
    await settle()
    assert writer.ended == [b"b", b"a"]
    assert writer.begun == [b"a", b"b", b"c", b"d"]
    gates[b"c"].set()
    gates[b"d"].set()
    assert [outcome.body for outcome, _ in await asyncio.gather(*jobs[2:])] == [b"c", b"d"]
    assert not made.active


async def test_a_piece_without_text_is_not_passed_on(writer, made):
    """A model says with it that it is at work."""

    async def generate(job):
        yield ""
        yield "a"
        yield ""
        yield Outcome(job.image, Timing(infer=1.0))

    writer.generate = generate
    items = [item async for item in made.generate(Job(b"", b""))]
    assert [item for item in items if isinstance(item, str)] == ["a"]
    assert len(items) == 2


async def test_other_models_are_left_as_they_are(writer):
    """Other tasks, models without pieces, and state between frames stay as they are."""
    for task in ("ocr", "vlm"):
        worker, size = text_worker.for_batcher(writer, task, 8)
        assert (type(worker), size, worker.width) == (text_worker.TextWorker, 1, 8)
        assert worker.report is writer.report
    assert text_worker.for_batcher(writer, "detect", 8) == (writer, 8)
    writer.report = LoadReport(stateful=True, pid=1, streams=True)
    assert text_worker.for_batcher(writer, "vlm", 8) == (writer, 8)
    writer.report = LoadReport(stateful=False, pid=1)
    assert text_worker.for_batcher(writer, "vlm", 8) == (writer, 8)
