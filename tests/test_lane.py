"""The lane of quick requests, and batches that nobody waits for."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time

import pytest

from conftest import picture
from mataserver import Classification, ClassifyResult, Params
from mataserver.contract.backend import LoadContext, ModelSpec
from mataserver.engines import wire
from mataserver.engines.lane import Lane
from mataserver.engines.line import Line
from mataserver.engines.process import ProcessEngine
from mataserver.engines.thread import ThreadEngine
from mataserver.engines.work import Assignment, Job, Placement
from mataserver.serving.batching import Batcher

SOON = 10.0


class Rig:
    """A lane whose socket's other end is the test's."""

    def __init__(self, decoders=1):
        self.ours, self.theirs = socket.socketpair()
        self.line = Line(self.theirs, None)
        self.decoded_by = {}
        self.finished = []
        self.begun = {name: threading.Event() for name in "abcde"}
        self.held = {}
        self.lane = Lane(self.line, self.decode, self.finish, decoders)

    def decode(self, job):
        name = bytes(job.image).decode()
        self.decoded_by[name] = threading.current_thread().name
        self.begun[name].set()
        for other in self.held.get(name, ()):
            assert self.begun[other].wait(SOON)
        return name

    def finish(self, request, batch):
        self.finished += batch
        self.line.reply(wire.Answer(request, []))

    def send(self, message, *parts):
        self.ours.sendall(b"".join(wire.frame(message, parts)))

    def infer(self, request, name):
        self.send(wire.Infer(request, [wire.JobHead("json", None)]), name.encode(), b"\x80")

    def replies(self):
        """Return the messages that the lane has sent."""
        reader = wire.Reader(self.ours)
        assert reader.fetch()
        return [received.header.message for received in iter(reader.take, None)]

    def close(self):
        self.lane.close()
        self.ours.close()
        self.theirs.close()


@pytest.fixture
def rig():
    made = Rig()
    yield made
    made.close()


def test_a_request_alone_is_done_by_whoever_reads_it(rig):
    """No other thread is asked for a request that comes alone."""
    for request, name in enumerate("abc", 1):
        rig.infer(request, name)
        assert rig.lane.step() is None
    assert rig.finished == ["a", "b", "c"]
    assert set(rig.decoded_by.values()) == {threading.current_thread().name}


def test_what_another_has_read_is_not_waited_for(rig):
    """A request that the listener had read when the lane took over is done at once."""
    rig.infer(1, "a")
    assert rig.line.fetch()
    stepping = threading.Thread(target=rig.lane.step, daemon=True)
    stepping.start()
    stepping.join(SOON)
    assert rig.finished == ["a"]


def test_what_waits_is_decoded_beside(rig):
    """While one picture is decoded here another one is decoded there; each is answered once."""
    rig.held = {"a": ["b"]}  # "a" is not done before another thread has begun "b"
    for request, name in enumerate("abc", 1):
        rig.infer(request, name)
    rig.send(wire.Stop())
    assert isinstance(rig.lane.step().header.message, wire.Stop)
    assert sorted(rig.finished) == ["a", "b", "c"]
    assert sorted(reply.id for reply in rig.replies()) == [1, 2, 3]
    assert rig.decoded_by["a"] != rig.decoded_by["b"]


def test_a_new_request_is_done_while_another_thread_still_decodes(rig):
    """Nobody waits for a helper while there is something else to do."""
    rig.held = {"a": ["b"], "b": ["c"]}
    rig.infer(1, "a")
    rig.infer(2, "b")
    assert rig.lane.step() is None
    rig.infer(3, "c")
    while len(rig.finished) < 3:
        assert rig.lane.step() is None
    assert rig.finished[0] == "a"
    assert sorted(rig.finished) == ["a", "b", "c"]


def test_without_helpers_requests_are_done_in_their_order():
    """On one core nothing is shared."""
    rig = Rig(decoders=0)
    for request, name in enumerate("abc", 1):
        rig.infer(request, name)
    rig.send(wire.Stop())
    rig.lane.step()
    assert rig.finished == ["a", "b", "c"]
    assert set(rig.decoded_by.values()) == {threading.current_thread().name}
    rig.close()


def test_a_dropped_batch_is_answered_and_not_done(rig):
    """Nobody waits for it: the model does not see it. A drop that comes too late is nothing."""
    rig.infer(1, "a")
    rig.infer(2, "b")
    rig.send(wire.Drop(2))
    rig.send(wire.Drop(7))
    rig.send(wire.Stop())
    rig.lane.step()
    assert rig.finished == ["a"]
    kinds = {reply.id: type(reply) for reply in rig.replies()}
    assert kinds == {1: wire.Answer, 2: wire.Raised}
    rig.send(wire.Drop(1))
    rig.infer(1, "c")
    rig.lane.step()
    assert rig.finished == ["a", "c"]


class Counting:
    """A model that counts what it saw, and waits for a file before it answers."""

    def __init__(self, gate):
        self._gate = gate
        self._seen = 0

    def predict(self, images, _params):
        """Wait, count and answer."""
        while not self._gate.exists():
            time.sleep(0.005)
        self._seen += len(images)
        return [ClassifyResult([Classification(str(i.shape[1]), 1.0)]) for i in images]

    def seen(self):
        """Return how many images it saw."""
        return self._seen


def load(_spec, context):
    """Load the model."""
    return Counting(context.data_dir / "gate")


@pytest.fixture(params=[ProcessEngine, ThreadEngine])
async def worker(request, tmp_path):
    """A worker of each engine with the model that counts."""
    engine = request.param()
    context = LoadContext(None, "cpu", "auto", 0, tmp_path, logging.getLogger("lane"))
    spec = ModelSpec("counting", "classify", "pip")
    assignment = Assignment(load, Params, spec, context, 1_000_000, 1)
    started = await engine.start(assignment, Placement("lane"))
    yield started
    await started.close()
    await engine.close()


async def test_nine_of_ten_hang_up(worker, tmp_path):
    """The tenth waits for the inference that has begun and its own, not for ten."""
    batcher = Batcher(worker, max_batch=1, max_wait=0.0, queue_limit=20)
    job = Job(picture(), b"\x80")
    async with asyncio.timeout(SOON):
        clients = [asyncio.create_task(batcher.submit(job)) for _ in range(10)]
        await asyncio.sleep(0.3)  # the first runs, the second was sent ahead
        for client in clients[:9]:
            client.cancel()
        await asyncio.sleep(0.1)
        (tmp_path / "gate").touch()
        outcome, _ = await clients[9]
        assert outcome.failure is None
        assert await worker.call("seen", (), {}) == 2


async def test_each_of_many_gets_its_own_answer(worker, tmp_path):
    """A crowd of quick requests, in the lane or out of it: nobody gets another's."""
    (tmp_path / "gate").touch()
    batcher = Batcher(worker, max_batch=4, max_wait=0.0, queue_limit=1000)
    widths = [16 + number for number in range(200)]
    jobs = [Job(picture(width=width), b"\x80") for width in widths]
    async with asyncio.timeout(SOON):
        for first in range(0, len(jobs), 40):
            crowd = [batcher.submit(job) for job in jobs[first : first + 40]]
            outcomes = [outcome for outcome, _ in await asyncio.gather(*crowd)]
            for width, outcome in zip(widths[first : first + 40], outcomes, strict=True):
                assert f'"{width}"'.encode() in outcome.whole()
