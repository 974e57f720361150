"""The batcher: what runs together, what waits, what is refused."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from mataserver.engines.work import Job, LoadReport, Outcome, Timing
from mataserver.engines.worker_errors import Failure, NotDispatchedError, WorkerDied
from mataserver.errors import MataError, Unavailable
from mataserver.serving.batching import Batcher
from mataserver.serving.pacing import BATCHES_PER_THREAD
from mataserver.serving.queues import Ticket


class Recorder:
    """A worker that notes its batches and answers when the test lets it."""

    def __init__(self):
        self.report = LoadReport(stateful=False, pid=1)
        self.width, self.pids = 1, (1,)
        self.doubt = None
        self.is_alive = True
        self.batches = []
        self.dropped = []
        self.timing = Timing(infer=10.0)
        self.failure = None
        self.tasks = []
        self.gate = asyncio.Event()
        self.gate.set()

    def on_suspect(self, callback):
        self.doubt = lambda *, suspect: callback(suspect)

    def infer(self, jobs, answered):
        images = [job.image for job in jobs]
        self.batches.append(images)
        self.tasks.append(asyncio.create_task(self._answer(jobs, answered)))
        return lambda: self.dropped.append(images)

    async def _answer(self, jobs, answered):
        await self.gate.wait()
        if self.is_alive:
            answered([Outcome(job.image, self.timing, self.failure) for job in jobs])
        else:
            answered(WorkerDied("died"))


def batcher(worker, **options):
    """Return a batcher with small limits."""
    defaults = {"max_batch": 4, "max_wait": 0.0, "queue_limit": 8}
    return Batcher(worker, **{**defaults, **options})


def submit(made, *names):
    """Submit a job per name, in order."""
    return [asyncio.create_task(made.submit(Job(name.encode(), b""))) for name in names]


async def sent_at_once(worker, made):
    """Submit two dozen jobs and return how many batches the worker is given before it answers."""
    before = len(worker.batches)
    worker.gate.clear()
    jobs = submit(made, *(str(number) for number in range(24)))
    await asyncio.sleep(0.01)
    sent = len(worker.batches) - before
    worker.gate.set()
    await asyncio.gather(*jobs)
    return sent


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


async def test_a_worker_that_fails_in_a_way_of_its_own_hangs_nobody(caplog):
    """An exception that no worker should raise is an error for its batch, and the next one runs."""

    class Odd(Recorder):
        def infer(self, jobs, answered):
            if not self.batches:
                self.batches.append([])
                raise TypeError("surprise")
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


async def test_background_work_that_waited_for_long_goes_before_others():
    """A flood of requests does not shut it out."""
    worker = Recorder()
    worker.gate.clear()
    made = batcher(worker, max_batch=2, max_background_wait=0.0)
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
