"""Background work in a model's queue: behind all others, yet not for ever."""

from __future__ import annotations

import asyncio

import pytest

from batch_recorder import Recorder, batcher, submit
from mataserver.engines.work import Job
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
