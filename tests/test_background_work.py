"""Background work in a model's queue: behind all others, yet not for ever."""

from __future__ import annotations

import asyncio
import time

import pytest

from batch_recorder import Recorder, batcher, submit
from mataserver.engines.work import Job, LoadReport
from mataserver.engines.worker_errors import NotDispatchedError
from mataserver.errors import Unavailable
from mataserver.serving import queues


def submit_behind(made, *names):
    """Submit background work, in order."""
    jobs = (Job(name.encode(), b"") for name in names)
    return [asyncio.create_task(made.submit(job, low_priority=True)) for job in jobs]


async def test_background_work_goes_when_nothing_else_waits():
    """What came first and can wait is sent last, and in batches of its own."""
    worker = Recorder()
    worker.gate.clear()
    made = batcher(worker, max_batch=2)
    jobs = submit(made, "a", "b") + submit_behind(made, "x", "y", "z") + submit(made, "c")
    await asyncio.sleep(0.01)
    worker.gate.set()
    await asyncio.gather(*jobs)
    assert worker.batches == [[b"a"], [b"b"], [b"c"], [b"x", b"y"], [b"z"]]


async def test_background_work_that_waited_for_long_goes_before_others(monkeypatch):
    """A flood of requests does not shut it out."""
    monkeypatch.setattr(queues, "MAX_BACKGROUND_WAIT", 0.0)
    worker = Recorder()
    worker.gate.clear()
    made = batcher(worker, max_batch=2)
    jobs = submit(made, "a", "b") + submit_behind(made, "x") + submit(made, "c", "d")
    await asyncio.sleep(0.01)
    worker.gate.set()
    await asyncio.gather(*jobs)
    assert worker.batches == [[b"a"], [b"b"], [b"x"], [b"c", b"d"]]


async def test_background_work_has_a_queue_of_its_own_that_fills():
    """Too much of it is refused, and refuses nobody else."""
    worker = Recorder()
    worker.gate.clear()
    made = batcher(worker, max_batch=1, queue_limit=2)
    jobs = submit(made, "a", "b") + submit_behind(made, "x", "y")
    await asyncio.sleep(0.01)
    with pytest.raises(Unavailable):
        await made.submit(Job(b"z", b""), low_priority=True)
    jobs += submit(made, "c")
    await asyncio.sleep(0.01)
    worker.gate.set()
    assert len(await asyncio.gather(*jobs)) == 5


async def test_background_work_of_a_worker_that_died_goes_to_the_next_one():
    """What waits behind all others is given back with them."""
    worker = Recorder()
    worker.gate.clear()
    made = batcher(worker, max_batch=1)
    jobs = submit(made, "a", "b") + submit_behind(made, "x")
    await asyncio.sleep(0.01)
    worker.is_alive = False
    worker.gate.set()
    found = await asyncio.gather(*jobs, return_exceptions=True)
    assert isinstance(found[2], NotDispatchedError)


async def test_background_work_of_a_model_that_keeps_state_goes_one_by_one():
    """As its frames do: what is asked for meanwhile waits for one of them at most."""
    worker = Recorder()
    worker.report = LoadReport(stateful=True, pid=1)
    worker.gate.clear()
    made = batcher(worker, max_batch=4)
    jobs = submit(made, "a", "b") + submit_behind(made, "x", "y")
    await asyncio.sleep(0.01)
    worker.gate.set()
    await asyncio.gather(*jobs)
    assert worker.batches[-2:] == [[b"x"], [b"y"]]


def test_background_work_that_waits_for_long_shuts_nobody_out():
    """Once a batch of it went the others have their turn, however long the rest has waited."""
    made = queues.JobQueues(max_batch=1, limit=8)
    long_ago = time.perf_counter() - 2 * queues.MAX_BACKGROUND_WAIT
    for name, queue in (
        (b"x", made.low_priority),
        (b"y", made.low_priority),
        (b"a", made.single),
        (b"b", made.single),
    ):
        queue.append(queues.QueuedJob(Job(name, b""), queues.Ticket(), long_ago))
    taken = [made.take_batch(stateful=False)[0].job.image for _ in range(4)]
    assert taken == [b"x", b"a", b"b", b"y"]


def test_a_batch_of_a_model_that_keeps_state_has_no_frame_in_it():
    """Requests go together, and each frame by itself, also where one waits behind them."""
    made = queues.JobQueues(max_batch=4, limit=8)
    for name, queue in ((b"a", made.single), (b"b", made.single), (b"f", made.frames)):
        session = "s" if queue is made.frames else None
        queue.append(queues.QueuedJob(Job(name, b"", session=session), queues.Ticket()))
    taken = [[each.job.image for each in made.take_batch(stateful=True)] for _ in range(2)]
    assert taken == [[b"a", b"b"], [b"f"]]
