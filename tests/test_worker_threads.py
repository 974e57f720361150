"""The threads of a worker: who reads, who decodes, and in which sequence it is done."""

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
from mataserver.engines import single_job, wire
from mataserver.engines.process import ProcessEngine
from mataserver.engines.server_connection import ServerConnection
from mataserver.engines.thread import ThreadEngine
from mataserver.engines.work import Assignment, Job, Placement
from mataserver.engines.worker_threads import WorkerThreads, WorkItem
from mataserver.serving.batching import Batcher

SOON = 20.0
ALWAYS, NEVER = 1000.0, 0.0


class Pixels:
    """What a picture of the rig decodes to: its name."""

    def __init__(self, name, decode_ms):
        self.name, self.decode_ms = name, decode_ms


class Rig:
    """Worker threads whose socket's other end is the test's; ``quick`` is what it takes for quick.

    A picture is a name. ``held`` names for a picture those that must have been begun before it is
    decoded; ``gates`` holds what the model waits for before it is done with one. ``took`` holds the
    milliseconds that the decoding of one is said to have taken.
    """

    def __init__(self, decoders=1, quick=ALWAYS, tiny=NEVER):
        self.ours, self.theirs = socket.socketpair()
        self.ours.settimeout(SOON)
        self.connection = ServerConnection(self.theirs, None)
        self.decoded_by, self.finished = {}, []
        self.begun = {name: threading.Event() for name in "abcdefgh"}
        self.held, self.gates, self.took = {}, {}, {}
        self.received = []
        self.splitter = wire.FrameSplitter()
        self.threads = WorkerThreads(self.connection, self.plan, self.decode, decoders, quick, tiny)
        self.model = threading.Thread(target=self.threads.run, name="model", daemon=True)
        self.model.start()

    # the worker's

    def plan(self, asked):
        """Return the order that a message is; a call is one that may take long."""
        jobs = asked if isinstance(asked, list) else []
        message = None if jobs else asked.header.message
        if isinstance(message, wire.Stop):
            return None
        request = jobs[0].position[0] if jobs else message.id
        return WorkItem(request, lambda batch: self.work(request, batch), jobs, bool(jobs))

    def decode(self, job):
        """Return the name of a picture."""
        name = bytes(job.image).decode()
        self.decoded_by[name] = threading.current_thread().name
        self.begun[name].set()
        for other in self.held.get(name, ()):
            assert self.begun[other].wait(SOON)
        return Pixels(name, self.took.get(name, 0.0))

    def work(self, request, batch):
        """Note what the model was given, and answer."""
        if self.connection.refuse_if_cancelled(request):
            return
        names = "".join(each.name for each in batch)
        assert threading.current_thread() is self.model
        self.finished.append(names)
        if names in self.gates:
            self.begun[names].set()
            assert self.gates[names].wait(SOON)
        if names == "x":
            raise RuntimeError(names)
        self.connection.reply(wire.Answer(request, []))

    # the server's

    def send(self, *messages):
        """Send messages at once; what is a number and names is a batch of pictures."""
        self.ours.sendall(b"".join(map(self.framed, messages)))

    @staticmethod
    def framed(message):
        """Return the bytes of a message."""
        if isinstance(message, wire.Message):
            return b"".join(wire.frame(message))
        request, names = message
        if len(names) == 1:
            job = Job(names.encode(), b"\x80")
            return b"".join(single_job.pack_request(request, job, wire.INLINE))
        parts = [part for name in names for part in (name.encode(), b"\x80")]
        infer = wire.Infer(request, [wire.JobHeader("json", None)] * len(names))
        header = wire.Header(infer, list(map(len, parts)), [wire.INLINE] * len(parts))
        return b"".join(wire.frame_with_header(header, parts))

    def replies(self, count):
        """Return the next messages of the worker."""
        while len(self.received) < count:
            data = self.ours.recv(1 << 16)  # or a timeout
            assert data
            self.received += [each.header.message for each in self.splitter.feed(data)]
        found, self.received = self.received[:count], self.received[count:]
        return found

    def ask(self, names):
        """Send a batch, wait for its answer and return which threads have decoded it."""
        self.send((1, names))
        (reply,) = self.replies(1)
        assert isinstance(reply, wire.Answer)
        return [self.decoded_by.pop(name) for name in names]

    def stop(self):
        """Say that nothing comes any more, and wait until all is done."""
        self.send(wire.Stop())
        self.model.join(SOON)
        assert not self.model.is_alive()

    def close(self):
        if self.model.is_alive():
            self.stop()
        self.ours.close()
        self.theirs.close()


@pytest.fixture
def rig():
    made = Rig()
    yield made
    made.close()


@pytest.fixture
def made():
    """Return a function that makes rigs."""
    found = []

    def make(**options):
        found.append(Rig(**options))
        return found[-1]

    yield make
    for each in found:
        each.close()


def asked_until(rig, names, threads, times=5):
    """Ask until that many batches in a row were decoded by these threads."""
    row, until = 0, time.monotonic() + SOON
    while row < times:
        assert time.monotonic() < until
        row = row + 1 if rig.ask(names) == threads else 0


def test_what_comes_alone_is_done_by_the_models_thread(rig):
    """Once work is quick no other thread is asked for what comes alone."""
    asked_until(rig, "a", ["model"])
    for _ in range(50):
        assert rig.ask("a") == ["model"]


def test_what_comes_alone_is_quick_again_after_a_crowd(rig):
    """A crowd is shared with a follower, which gives the lead back with the next that is alone."""
    asked_until(rig, "a", ["model"])
    rig.held = {"b": ["c"], "c": ["b"]}
    rig.send((1, "b"), (2, "c"))
    rig.replies(2)
    assert sorted(rig.decoded_by.values()) == ["follower", "model"]
    asked_until(rig, "a", ["model"])


def test_what_waits_is_decoded_beside(rig):
    """While one picture is decoded here another one is decoded there; each is answered once."""
    rig.held = {"a": ["b"], "b": ["a"]}
    rig.send((1, "a"), (2, "b"), (3, "c"))
    assert [reply.id for reply in rig.replies(3)] == [1, 2, 3]
    assert rig.finished == ["a", "b", "c"]
    assert {rig.decoded_by["a"], rig.decoded_by["b"]} == {"model", "follower"}


def test_the_pictures_of_a_batch_are_decoded_side_by_side(made):
    """Three threads have one each, and the model is given all of them in their sequence."""
    rig = made(decoders=2)
    rig.held = {"a": ["b", "c"], "b": ["c", "a"], "c": ["a", "b"]}
    rig.send((1, "abcd"))
    rig.replies(1)
    assert rig.finished == ["abcd"]


def test_orders_are_done_in_their_sequence(made):
    """One that is decoded late is not overtaken by those that are decoded before it."""
    rig = made(decoders=2)
    rig.held = {"a": ["b", "c", "d"]}
    rig.send((1, "a"), (2, "b"), (3, "c"), (4, "d"))
    assert [reply.id for reply in rig.replies(4)] == [1, 2, 3, 4]
    assert rig.finished == ["a", "b", "c", "d"]


def test_on_one_core_nothing_is_shared(made):
    """Without decoders the model's thread does a crowd by itself, as long as work is quick."""
    rig = made(decoders=0)
    asked_until(rig, "a", ["model"])
    for _ in range(10):
        rig.send((1, "a"), (2, "b"), (3, "c"))
        rig.replies(3)
        assert set(rig.decoded_by.values()) == {"model"}


def test_what_is_done_in_no_time_is_shared_with_nobody(made):
    """To wake another thread for one of a crowd would cost more than it takes."""
    rig = made(tiny=ALWAYS)
    asked_until(rig, "a", ["model"])
    for _ in range(10):
        rig.send((1, "a"), (2, "b"), (3, "c"))
        rig.replies(3)
        assert set(rig.decoded_by.values()) == {"model"}


def test_what_came_with_what_takes_longer_after_all_is_shared(made):
    """A crowd that seemed to be done in no time is decoded side by side behind the first."""
    rig = made(tiny=ALWAYS / 10)
    asked_until(rig, "a", ["model"])
    rig.took = {"b": 200_000.0}
    rig.held = {"c": ["d"], "d": ["c"]}
    rig.send((1, "b"), (2, "c"), (3, "d"))
    assert [reply.id for reply in rig.replies(3)] == [1, 2, 3]
    assert rig.decoded_by["b"] == "model"
    assert {rig.decoded_by["c"], rig.decoded_by["d"]} == {"model", "follower"}


def test_what_may_take_long_is_shared_behind_what_takes_no_time(made):
    """What an order's size says counts more than what the last one took."""
    rig = made(tiny=ALWAYS)
    asked_until(rig, "a", ["model"])
    rig.held = {"b": ["c"], "c": ["b"]}
    rig.send(wire.Call(1), (2, "b"), (3, "c"))
    assert [reply.id for reply in rig.replies(3)] == [1, 2, 3]
    assert {rig.decoded_by["b"], rig.decoded_by["c"]} == {"model", "follower"}


@pytest.mark.parametrize("decoders", [0, 1])
def test_what_comes_is_read_and_decoded_while_the_model_is_slow(made, decoders):
    """The model's thread has handed the lead on before it runs what may take long."""
    rig = made(decoders=decoders, quick=NEVER)
    rig.ask("a")
    rig.gates = {"a": threading.Event()}
    rig.send((1, "a"))
    assert rig.begun["a"].wait(SOON)
    rig.send((2, "b"))
    assert rig.begun["b"].wait(SOON)
    rig.gates["a"].set()
    rig.replies(2)
    assert rig.decoded_by["b"] == "follower"


def test_what_may_take_long_is_not_begun_with_the_lead(rig):
    """A call after quick work holds up no reading; a drop that comes meanwhile is heard."""
    asked_until(rig, "a", ["model"])
    rig.gates = {"": threading.Event()}
    rig.begun[""] = threading.Event()
    rig.send(wire.Call(1))
    assert rig.begun[""].wait(SOON)
    rig.send((2, "b"), wire.CancelBatch(2), (3, "c"))
    assert rig.begun["c"].wait(SOON)
    rig.gates[""].set()
    kinds = {reply.id: type(reply) for reply in rig.replies(3)}
    assert kinds == {1: wire.Answer, 2: wire.RequestFailed, 3: wire.Answer}
    assert rig.finished[-2:] == ["", "c"]


def test_who_hangs_at_quick_work_gives_the_lead_up_when_told(rig):
    """The guard has somebody else read when the model does not come back from what was quick."""
    asked_until(rig, "a", ["model"])
    rig.gates = {"b": threading.Event()}
    rig.send((1, "b"))
    assert rig.begun["b"].wait(SOON)
    rig.send((2, "c"))
    until = time.monotonic() + SOON
    while not rig.begun["c"].is_set():
        assert time.monotonic() < until
        rig.threads.pass_lead()
        time.sleep(0.01)
    rig.gates["b"].set()
    assert [reply.id for reply in rig.replies(2)] == [1, 2]
    asked_until(rig, "a", ["model"])


def test_to_hand_on_what_one_does_not_have_is_nothing(rig):
    """The guard looks at any time, also while a follower leads, or while nobody has anything."""
    for _ in range(200):
        rig.threads.pass_lead()
        rig.ask("a")
        rig.threads.pass_lead()


def test_a_dropped_batch_is_answered_and_not_done(rig):
    """Nobody waits for it: the model does not see it. A drop that comes too late is nothing."""
    rig.send((1, "a"), (2, "b"), wire.CancelBatch(2), wire.CancelBatch(7))
    kinds = {reply.id: type(reply) for reply in rig.replies(2)}
    assert kinds == {1: wire.Answer, 2: wire.RequestFailed}
    rig.send(wire.CancelBatch(1), (1, "c"))
    rig.replies(1)
    assert rig.finished == ["a", "c"]


def test_work_that_raises_is_answered_as_failed(rig):
    """Whoever waits is told, and the next is served."""
    rig.begun["x"] = threading.Event()
    rig.send((1, "x"), (2, "a"))
    failed, answer = rig.replies(2)
    assert (type(failed), failed.failure.status) == (wire.RequestFailed, 500)
    assert (type(answer), answer.id) == (wire.Answer, 2)


@pytest.mark.parametrize("decoders", [0, 1, 3])
@pytest.mark.parametrize("quick", [ALWAYS, NEVER])
def test_all_is_answered_before_the_end(made, decoders, quick):
    """What came before the last message is done; then no thread of the crew is left."""
    before = set(threading.enumerate())
    rig = made(decoders=decoders, quick=quick)
    crew = set(threading.enumerate()) - before
    rig.ask("a")
    rig.send((1, "bcd"), (2, "e"), (3, "f"), wire.Stop())
    assert [reply.id for reply in rig.replies(3)] == [1, 2, 3]
    rig.stop()
    assert rig.finished == ["a", "bcd", "e", "f"]
    for thread in crew:
        thread.join(SOON)
        assert not thread.is_alive()


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
    context = LoadContext(None, "cpu", "auto", 0, tmp_path, logging.getLogger("crew"))
    spec = ModelSpec("counting", "classify", "pip")
    assignment = Assignment(load, Params, spec, context, 1)
    started = await engine.start(assignment, Placement("crew"))
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
    """A crowd of quick requests, done alone or beside each other: nobody gets another's."""
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
