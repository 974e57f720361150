"""The batcher: what runs together, what waits, what is refused."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from batch_recorder import Recorder, batcher, sent_at_once, submit
from mataserver.engines.work import Job, LoadReport, Timing
from mataserver.engines.worker_errors import Failure, NotDispatchedError, WorkerDied
from mataserver.errors import MataError, Unavailable
from mataserver.serving.queues import BATCHES_PER_THREAD


async def test_with_an_idle_model_the_first_request_goes_at_once():
    """Even with a waiting time set, a lone request is not held back."""
    worker = Recorder()
    outcome, waited = await batcher(worker, max_wait=60.0).submit(Job(b"a", b""))
    assert outcome.body == b"a"
    assert waited < 1000


async def test_requests_that_wait_together_run_together():
    """While two batches are under way, the others gather up to the largest batch."""
    worker = Recorder()
    worker.gate.clear()
    made = batcher(worker)
    jobs = submit(made, *"abcdefg")
    await asyncio.sleep(0.01)
    assert worker.batches == [[b"a"], [b"b"]]
    worker.gate.set()
    outcomes = await asyncio.gather(*jobs)
    assert worker.batches[2:] == [[b"c", b"d", b"e", b"f"], [b"g"]]
    assert [outcome.body for outcome, _ in outcomes] == [c.encode() for c in "abcdefg"]


async def test_a_batch_that_is_not_full_waits_while_the_model_is_busy():
    """With a waiting time, a second batch is not sent before it is full or the time is over."""
    worker = Recorder()
    worker.gate.clear()
    made = batcher(worker, max_batch=2, max_wait=30.0)
    jobs = submit(made, "a", "b")
    await asyncio.sleep(0.01)
    assert worker.batches == [[b"a"]]
    jobs += submit(made, "c")
    await asyncio.sleep(0.01)
    assert worker.batches == [[b"a"], [b"b", b"c"]]
    worker.gate.set()
    await asyncio.gather(*jobs)


async def test_a_full_queue_refuses_at_once():
    """One request too many gets 503 with a time to retry; the others are served."""
    worker = Recorder()
    worker.gate.clear()
    made = batcher(worker, max_batch=1, queue_limit=3)
    jobs = submit(made, *"abcde")
    await asyncio.sleep(0.01)
    with pytest.raises(Unavailable) as refused:
        await made.submit(Job(b"f", b""))
    assert refused.value.retry_after == 1
    worker.gate.set()
    assert len(await asyncio.gather(*jobs)) == 5


async def test_a_cancelled_request_leaves_the_queue():
    """A request cancelled while it waits is never run."""
    worker = Recorder()
    worker.gate.clear()
    made = batcher(worker, max_batch=1)
    jobs = submit(made, *"abcd")
    await asyncio.sleep(0.01)
    jobs[2].cancel()
    await asyncio.wait([jobs[2]])
    worker.gate.set()
    await asyncio.gather(*jobs[:2], jobs[3])
    assert [b"c"] not in worker.batches


async def test_a_death_fails_what_ran_and_returns_what_waited():
    """What the worker held fails with it; what waited may go elsewhere."""
    worker = Recorder()
    worker.gate.clear()
    made = batcher(worker, max_batch=1)
    jobs = submit(made, *"abcd")
    await asyncio.sleep(0.01)
    worker.is_alive = False
    worker.gate.set()
    outcomes = await asyncio.gather(*jobs, return_exceptions=True)
    assert [type(each) for each in outcomes] == [WorkerDied] * 2 + [NotDispatchedError] * 2


@pytest.mark.parametrize("surprise", [TypeError("surprise"), SystemExit("surprise")])
async def test_a_worker_that_fails_in_a_way_of_its_own_hangs_nobody(surprise):
    """An exception that no worker should raise is an error for its batch, and the next one runs."""

    class Odd(Recorder):
        def infer(self, jobs, answered):
            if not self.batches:
                self.batches.append([])
                raise surprise
            return super().infer(jobs, answered)

    made = batcher(Odd())
    with pytest.raises(MataError, match="The model failed"):
        await made.submit(Job(b"a", b""))
    outcome, _ = await made.submit(Job(b"b", b""))
    assert outcome.body == b"b"


async def test_sessions_and_single_requests_take_turns():
    """A video frame that comes behind a flood of requests is next but one; neither side starves."""
    worker = Recorder()
    worker.gate.clear()
    made = batcher(worker, max_batch=1)
    jobs = submit(made, *"abcdef")
    frames = [
        asyncio.create_task(made.submit(Job(name, b"", session=name.decode())))
        for name in (b"1", b"2", b"3", b"4", b"5")
    ]
    await asyncio.sleep(0.01)
    worker.gate.set()
    await asyncio.gather(*jobs, *frames)
    order = [batch[0] for batch in worker.batches[2:]]
    assert order == [b"c", b"1", b"d", b"2", b"e", b"3", b"f", b"4", b"5"]


@pytest.mark.parametrize(
    ("timing", "largest", "ahead"),
    [
        (Timing(decode=0.8, infer=0.01), 1, 20),
        (Timing(decode=0.8, infer=0.01), 2, 20),
        (Timing(decode=0.8, infer=0.17), 1, 8),
        (Timing(decode=0.8, infer=0.5), 1, 4),
        (Timing(decode=0.8, infer=1.5), 1, 2),
        (Timing(decode=0.8, infer=0.5), 2, 4),
        (Timing(decode=30.0, infer=0.01), 1, 5),
        (Timing(decode=0.02, infer=0.01), 1, 8),
        (Timing(decode=0.2, infer=0.1), 1, 6),
        (Timing(decode=30.0, infer=20.0), 1, 3),
        (Timing(decode=30.0, infer=40.0), 1, 2),
        (Timing(decode=30.0, infer=20.0), 2, 2),
    ],
)
async def test_more_is_sent_ahead_where_decoding_takes_the_time(timing, largest, ahead):
    """As much as the threads that decode can have under way; slow work waits for its batch."""
    worker = Recorder()
    worker.report = LoadReport(stateful=False, pid=1, decoders=3)
    worker.timing = timing
    made = batcher(worker, max_batch=largest, queue_limit=60)
    await made.submit(Job(b"a", b""))
    assert await sent_at_once(worker, made) == ahead


@pytest.mark.parametrize(
    ("timing", "stateful", "given"),
    [
        (Timing(decode=1.0, infer=21.0), False, 3),
        (Timing(decode=1.0, infer=20.0), False, 6),
        (Timing(decode=30.0, infer=100.0), False, 6),
        (Timing(decode=0.01, infer=2.5), False, 6),
        (Timing(decode=1.0, infer=300.0), True, 6),
    ],
)
async def test_a_slow_model_is_given_no_more_than_its_replicas_can_begin(timing, stateful, given):
    """What waits is for whichever replica is done first: one may be held up much longer."""
    worker = Recorder()
    worker.report = LoadReport(stateful=stateful, pid=1)
    worker.width = 3
    worker.timing = timing
    made = batcher(worker, max_batch=1, queue_limit=60)
    await made.submit(Job(b"a", b""))
    assert await sent_at_once(worker, made) == given


async def test_a_refused_picture_changes_nothing_of_what_is_sent_ahead():
    """A picture that could not be decoded took the model no time: that is no sign of its pace."""
    worker = Recorder()
    worker.report = LoadReport(stateful=False, pid=1, decoders=7)
    made = batcher(worker, max_batch=4, queue_limit=60)
    worker.timing, worker.failure = Timing(decode=1.0), Failure(400, "no picture")
    await made.submit(Job(b"broken", b""))
    worker.timing, worker.failure = Timing(decode=1.0, infer=30.0), None
    assert await sent_at_once(worker, made) == BATCHES_PER_THREAD


async def test_what_occupies_the_worker_is_waited_for():
    """Draining waits for work that is no job, as a service's call is."""
    made = batcher(Recorder())
    with made.lease_worker():
        drained = asyncio.create_task(made.drain())
        await asyncio.sleep(0.01)
        assert not drained.done()
    await asyncio.wait_for(drained, 5)


async def test_drain_waits_for_everything():
    """Draining ends when nothing is queued or running."""
    worker = Recorder()
    worker.gate.clear()
    made = batcher(worker, max_batch=1)
    jobs = submit(made, *"abc")
    await asyncio.sleep(0.01)
    drained = asyncio.create_task(made.drain())
    await asyncio.sleep(0.01)
    assert not drained.done()
    worker.gate.set()
    await asyncio.wait_for(drained, 5)
    assert all(job.done() for job in jobs)


class Picture(bytearray):
    """Bytes that can be watched."""


@pytest.mark.parametrize("ending", ["answered", "given up"])
async def test_a_request_leaves_nothing_for_the_garbage_collector(ending):
    """Pixels and answers are freed at once: kept in rings, they would pile up by the hundred."""
    worker = Recorder()
    picture = Picture(b"a")
    watched = weakref.ref(picture)
    gc.disable()
    try:
        worker.gate.clear()
        job = asyncio.create_task(batcher(worker).submit(Job(picture, b"")))
        del picture
        await asyncio.sleep(0.01)
        if ending == "given up":
            job.cancel()
        worker.gate.set()
        await asyncio.wait([job, *worker.tasks])
        assert job.cancelled() == (ending == "given up")
        del job
        for noted in (worker.tasks, worker.batches, worker.dropped):
            noted.clear()
        await asyncio.sleep(0)
        assert watched() is None
    finally:
        gc.enable()
