"""Batches whose waiters are no tasks, leave, or stay."""

from __future__ import annotations

import asyncio

from batch_recorder import Recorder, batcher, submit
from mataserver.engines.work import Job
from mataserver.engines.worker_errors import WorkerDied
from mataserver.serving.queues import Ticket


async def test_a_batch_that_nobody_waits_for_is_taken_back():
    """The worker is told once the last of a batch that it was given ahead hangs up, not before."""
    worker = Recorder()
    worker.gate.clear()
    made = batcher(worker, max_batch=2)
    first, second, *pair = submit(made, *"abcd")
    waiting = submit(made, *"ef")
    await asyncio.sleep(0.01)
    assert worker.batches == [[b"a"], [b"b"]]
    second.cancel()
    waiting[0].cancel()
    await asyncio.sleep(0.01)
    assert worker.dropped == [[b"b"]]
    worker.gate.set()
    await asyncio.gather(first, *pair, waiting[1])
    assert worker.batches == [[b"a"], [b"b"], [b"c", b"d"], [b"f"]]
    worker.gate.clear()
    alone, one, other = submit(made, *"xyz")
    await asyncio.sleep(0.01)
    third, fourth = submit(made, *"uv")
    alone.cancel()
    await asyncio.sleep(0.01)
    assert worker.dropped == [[b"b"], [b"x"]]
    worker.gate.set()
    await asyncio.gather(one, other, third, fourth)


async def test_who_is_no_task_is_told_at_once():
    """A ticket is settled as the worker answers; one who fails at that holds up nobody."""
    worker, told = Recorder(), []
    worker.gate.clear()
    made = batcher(worker)

    def fail(_answer):
        raise RuntimeError

    tickets = [Ticket(), Ticket(), Ticket()]
    for ticket, take in zip(tickets, (told.append, fail, told.append), strict=True):
        assert made.begin(Job(b"a", b""), ticket) is not None
        ticket.take = take
    worker.gate.set()
    await made.drain()
    assert [each.body for each in told] == [b"a", b"a"]
    assert all(ticket.done() and ticket.take is None for ticket in tickets)


async def test_who_is_no_task_takes_a_job_back():
    """One that waits leaves the queue, one that was given is dropped; neither is told anything."""
    worker, told = Recorder(), []
    worker.gate.clear()
    made = batcher(worker, max_batch=1)
    begun = []
    for name in (b"a", b"b", b"c"):
        ticket = Ticket()
        begun.append(made.begin(Job(name, b""), ticket))
        ticket.take = told.append
    assert worker.batches == [[b"a"], [b"b"]]
    made.cancel(begun[1])
    made.cancel(begun[2])
    assert (worker.dropped, len(made)) == ([[b"b"]], 0)
    worker.gate.set()
    await made.drain()
    assert [each.body for each in told] == [b"a"]


async def test_who_is_no_task_does_not_begin_where_that_fails():
    """Without a worker, with a full queue, or where the worker takes nothing: a task asks anew."""
    worker = Recorder()
    worker.gate.clear()
    made = batcher(worker, max_batch=1, queue_limit=1)
    for _ in range(3):
        assert made.begin(Job(b"a", b""), Ticket()) is not None
    assert made.begin(Job(b"a", b""), Ticket()) is None
    worker.gate.set()
    await made.drain()

    def refuse(_jobs, _answered):
        raise WorkerDied("gone")

    worker.infer = refuse
    assert made.begin(Job(b"a", b""), Ticket()) is None
    worker.is_alive = False
    assert made.begin(Job(b"a", b""), Ticket()) is None
    assert not made.active


async def test_who_is_no_task_is_told_that_a_worker_died():
    """What the worker had has failed, what it was not given yet can go to the next one."""
    worker, told = Recorder(), []
    worker.gate.clear()
    made = batcher(worker, max_batch=1)
    for _ in range(3):
        ticket = Ticket()
        made.begin(Job(b"a", b""), ticket)
        ticket.take = told.append
    worker.is_alive = False
    worker.gate.set()
    await made.drain()
    assert sorted(type(each).__name__ for each in told) == [
        "NotDispatchedError", "WorkerDied", "WorkerDied",
    ]  # fmt: skip


async def test_one_who_still_waits_keeps_a_batch():
    """A batch of which one job is still wanted is not taken back."""
    worker = Recorder()
    worker.gate.clear()
    made = batcher(worker, max_batch=2)
    jobs = submit(made, *"abcde")
    await asyncio.sleep(0.01)
    worker.gate.set()
    await jobs[1]
    worker.gate.clear()
    await asyncio.sleep(0.01)
    assert [b"c", b"d"] in worker.batches
    jobs[2].cancel()
    await asyncio.sleep(0.01)
    assert worker.dropped == []
    worker.gate.set()
    outcome, _ = await jobs[3]
    assert outcome.body == b"d"
