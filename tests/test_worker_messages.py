"""Messages of a worker that are wrong: whoever waits for an answer is told, and no one hangs."""

from __future__ import annotations

import asyncio
import pickle
import socket
from pathlib import Path

import pytest

from mataserver import MataError
from mataserver.engines import payload, single_job, wire
from mataserver.engines.work import Job, LoadReport, Outcome, Timing
from mataserver.engines.worker import ProcessWorker
from mataserver.engines.worker_errors import (
    DecodeTimeoutError,
    WorkerDied,
    WorkerReplacedError,
)
from simulated_time import simulated


class Evil:
    """Would write a file if it were unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


class Transport:
    """Takes what is written to a worker."""

    def __init__(self):
        self.aborted = False

    def writelines(self, buffers):
        """Take buffers."""

    def is_closing(self):
        """Say whether it was aborted."""
        return self.aborted

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


async def test_what_is_sent_while_a_connection_closes_fails_when_it_has():
    """A batch to a worker whose socket is closing fails with it, and to drop it is no error."""
    near, far = socket.socketpair()
    sick, answers = ProcessWorker("sick", 60.0), []
    transport, _ = await asyncio.get_running_loop().create_connection(lambda: sick, sock=near)
    with far:
        transport.close()
        drop = sick.infer([Job(b"a", b"")], answers.append)
        drop()
        assert not answers
        await asyncio.sleep(0)
    assert [type(answer) for answer in answers] == [WorkerDied]


def alone(request, body=b"{}", **timing):
    """Return the answer to a batch of one job as a worker sends it."""
    return b"".join(single_job.pack_answer(request, Outcome(body, Timing(**timing)), None))


@pytest.mark.parametrize(
    "sent", [alone(1, b""), alone(1, decode=float("nan")), alone(1, infer=-1.0)]
)
async def test_an_answer_that_cannot_be_true_fails_its_job(sent):
    """An answer without a body, or with a time that nothing takes, is no answer."""
    sick = ProcessWorker("sick", 60.0)
    sick.connection_made(Transport())
    answers = []
    sick.infer([Job(b"a", b"")], answers.append)
    sick.data_received(sent)
    assert isinstance(answers[0], WorkerDied)


async def test_an_answer_to_one_job_is_none_to_anything_else():
    """A worker that answers a batch of two, a call or a stream with it costs them an error."""
    sick = ProcessWorker("sick", 60.0)
    sick.connection_made(Transport())
    answers = []
    sick.infer([Job(b"a", b""), Job(b"b", b"")], answers.append)
    sick.data_received(alone(1))
    assert isinstance(answers[0], WorkerDied)
    asked = [lambda: sick.call("echo", (), {}), lambda: anext(sick.stream("numbers", (), {}))]
    for number, ask in enumerate(asked, 2):
        waiting = asyncio.ensure_future(ask())
        await asyncio.sleep(0)
        sick.data_received(alone(number))
        with pytest.raises(WorkerDied):
            await waiting
    sick.kill("the test is over")


async def test_a_pickle_of_a_worker_is_not_read(tmp_path):
    """A worker that answers a call, a stream or a chat with a pickle is told off, nothing else."""
    sick = ProcessWorker("sick", 60.0)
    sick.connection_made(Transport())
    poison = pickle.dumps(Evil(tmp_path / "done"))
    asked = [
        lambda: sick.call("echo", (), {}),
        lambda: anext(sick.stream("numbers", (), {})),
        lambda: anext(sick.generate(Job(b"a", b""))),
    ]
    for number, ask in enumerate(asked, 1):
        waiting = asyncio.ensure_future(ask())
        await asyncio.sleep(0)
        sick.data_received(b"".join(wire.frame(wire.ValueReturned(number), [poison])))
        with pytest.raises(MataError):
            await waiting
    assert not list(tmp_path.iterdir())
    sick.kill("the test is over")


@pytest.mark.parametrize(
    "sent", [wire.PREFIX.pack(4, 0) + b"\xff" * 4, wire.PREFIX.pack(0, 3) + b"abc"]
)
async def test_a_message_that_cannot_be_read_ends_the_worker(caplog, sent):
    """What is no message of ours kills the worker, and whoever waits is told."""
    sick = ProcessWorker("sick", 60.0)
    transport = Transport()
    sick.connection_made(transport)
    answers = []
    sick.infer([Job(b"a", b"")], answers.append)
    sick.data_received(sent)
    assert isinstance(answers[0], WorkerDied)
    assert transport.aborted
    assert not sick.is_alive


@pytest.mark.parametrize(
    "message",
    [
        wire.WaitingForDecoder(),
        wire.StreamEnded(99),
        wire.Answer(99, []),
        wire.Loaded(LoadReport(stateful=False, pid=1)),
    ],
)
async def test_a_flood_of_messages_ends_the_worker(message):
    """A worker that keeps the server busy with what nobody waits for is killed, and told of."""
    sick = ProcessWorker("sick", 60.0)
    transport = Transport()
    sick.connection_made(transport)
    answers = []
    sick.infer([Job(b"a", b"")], answers.append)
    flood = b"".join(wire.frame(message)) * 2_000
    for _ in range(20):  # of how many seconds these are depends on the machine
        sick.data_received(flood)
    assert isinstance(answers[0], WorkerDied)
    assert transport.aborted
    assert not sick.is_alive


async def test_messages_that_come_together_are_read_one_by_one():
    """However the bytes are cut, each answer finds who waits for it, with its parts."""
    for size in (1, 7, 1 << 20):
        worker = ProcessWorker("well", 60.0)
        worker.connection_made(Transport())
        calls = [asyncio.ensure_future(worker.call("echo", (), {})) for _ in range(3)]
        await asyncio.sleep(0)
        said = b"".join(
            b"".join(wire.frame(wire.ValueReturned(number), payload.pack("x" * number).parts))
            for number in (1, 2, 3)
        )
        for begin in range(0, len(said), size):
            worker.data_received(said[begin : begin + size])
        assert await asyncio.gather(*calls) == ["x", "xx", "xxx"]
        worker.kill("the test is over")


@simulated
async def test_decoding_is_not_the_models_time():
    """A worker that says that it decodes is not given up for want of answers."""
    busy = ProcessWorker("busy", 0.3)
    busy.connection_made(Transport())
    answers = []
    busy.infer([Job(b"a", b"")], answers.append)
    for _ in range(8):
        await asyncio.sleep(0.1)
        busy.data_received(b"".join(wire.frame(wire.WaitingForDecoder())))
    assert busy.is_alive
    assert not answers
    await asyncio.sleep(0.5)
    assert not busy.is_alive


async def test_only_the_slow_image_of_a_batch_is_refused():
    """The worker names one job; its batch is told which, and every other batch to move on."""
    stuck = ProcessWorker("stuck", 60.0, 0.2)
    stuck.connection_made(Transport())
    mine, others = [], []
    stuck.infer([Job(b"a", b""), Job(b"b", b"")], mine.append)
    stuck.infer([Job(b"c", b"")], others.append)
    stuck.data_received(b"".join(wire.frame(wire.DecodeTimedOut(1, 1))))
    assert isinstance(mine[0], DecodeTimeoutError)
    assert (mine[0].job, mine[0].status) == (1, 400)
    assert isinstance(others[0], WorkerReplacedError)
    assert not stuck.is_alive
