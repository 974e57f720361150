"""The batcher: one queue per loaded model.

Requests that wait together run together. With an idle model the first request goes at once; while
the model is busy a batch that is not full may wait ``max_wait`` for more. A second batch is sent
ahead, so that the worker decodes it while the first one runs; more where decoding takes most of the
time, so that none of its threads waits. Video sessions and single requests queue apart and take
turns: a flood of either leaves the other its half. Background work is taken when nothing else
waits, or when it has waited for long, and shares no batch with others.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mataserver.engines.work import Displaced, NodeDied, Overgrown, Spoilt
from mataserver.errors import MataError, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator

    from mataserver.engines.work import Job, Outcome, Worker

AHEAD = 2
"""Batches that a worker is given at a time, for each of its threads that has something to do."""
LEAST_MS = 0.1
QUICK_MS = 3.0
"""Milliseconds below which a batch is quick: all that is sent ahead is soon done."""
SLOW = 20
"""Times as long as decoding that a model takes, from which decoding ahead gains next to nothing."""

LONG = 10.0
"""Seconds that background work waits at most for a moment in which nothing else does."""

log = logging.getLogger("mataserver.batching")


class NotDispatchedError(MataError):
    """The worker died before it was given this job: the job can go to the next worker."""


@dataclass(slots=True, eq=False)
class QueuedJob:
    """A job in the queue."""

    job: Job
    future: asyncio.Future[Outcome]
    since: float = field(default_factory=time.perf_counter)
    queue_ms: float = 0.0
    batch: Batch | None = None


@dataclass(slots=True, eq=False)
class Batch:
    """Jobs that the worker was given together, and how to tell it that nobody waits for them."""

    jobs: list[QueuedJob]
    drop: Callable[[], None] | None = None


class Batcher:
    """Feeds one worker."""

    def __init__(
        self,
        worker: Worker,
        *,
        max_batch: int,
        max_wait: float,
        queue_limit: int,
        longest_behind: float = LONG,
    ) -> None:
        self._worker = worker
        self._loop = asyncio.get_running_loop()
        self._max_batch = max_batch
        self._max_wait = max_wait
        self._limit = queue_limit
        self._longest_behind = longest_behind
        self._single: deque[QueuedJob] = deque()
        self._frames: deque[QueuedJob] = deque()
        self._behind: deque[QueuedJob] = deque()
        self._behind_left = 0.0
        self._frame_next = False
        self._running = 0
        self._given = 0
        self._occupied = 0
        self._ahead = AHEAD * worker.width
        self._quiet: asyncio.Event | None = None
        self._timer: asyncio.TimerHandle | None = None
        worker.on_suspect(self._hold)

    @property
    def active(self) -> bool:
        """Whether anything is queued or running."""
        return bool(self._running or self._occupied or len(self))

    @property
    def load(self) -> int:
        """How many jobs wait or are worked on; work that is no job counts as one."""
        return len(self) + self._given + self._occupied

    def __len__(self) -> int:
        """Return how many jobs wait."""
        return len(self._single) + len(self._frames) + len(self._behind)

    async def submit(self, job: Job, *, behind: bool = False) -> tuple[Outcome, float]:
        """Run one job; return its outcome and the milliseconds it waited.

        A session's job is not refused for a full queue: a session has a few at most, and a
        flood of requests must not shut it out. One that is ``behind`` goes when nothing else waits,
        or when it has waited for long.

        Raises ``Unavailable`` when the queue is full, ``WorkerDied`` when the worker died with the
        job, ``NotDispatchedError`` when it died before. ``Displaced`` says that it was replaced for
        somebody else's image: the job can go to the next worker.
        """
        if not self._worker.alive:
            raise NotDispatchedError("The model's worker is gone")
        queue = self._behind if behind else self._frames if job.session else self._single
        if len(queue) >= self._limit and queue is not self._frames:
            raise Unavailable("The model's queue is full", retry_after=1)
        waiting = QueuedJob(job, self._loop.create_future())
        queue.append(waiting)
        self._pump()
        try:
            return await waiting.future, waiting.queue_ms
        except asyncio.CancelledError:
            self._withdraw(waiting, queue)
            raise

    @staticmethod
    def _withdraw(waiting: QueuedJob, queue: deque[QueuedJob]) -> None:
        """Take a job back; the worker is told when nobody waits for its batch any more."""
        batch = waiting.batch
        if batch is None:
            with contextlib.suppress(ValueError):
                queue.remove(waiting)
        elif batch.drop is not None and all(each.future.done() for each in batch.jobs):
            batch.drop()

    async def generate(self, job: Job) -> AsyncGenerator[str | Outcome]:
        """Yield the pieces of text that the model makes for a job, then its outcome.

        Closing the iterator stops the work. Raises as ``submit`` does.
        """
        if not self._worker.alive:
            raise NotDispatchedError("The model's worker is gone")
        if job.session is None and self._occupied >= self._limit:
            raise Unavailable("The model's queue is full", retry_after=1)
        with self.occupied():
            async with contextlib.aclosing(self._worker.generate(job)) as items:
                async for item in items:
                    yield item

    @contextlib.contextmanager
    def occupied(self) -> Iterator[Worker]:
        """Hold the worker for work that is no job: it is not unloaded before the context ends."""
        self._occupied += 1
        try:
            yield self._worker
        finally:
            self._occupied -= 1
            self._tell_quiet()

    async def drain(self) -> None:
        """Wait until nothing is queued, running or occupying the worker."""
        while self.active:
            self._quiet = self._quiet or asyncio.Event()
            self._quiet.clear()
            await self._quiet.wait()

    def _tell_quiet(self) -> None:
        if self._quiet is not None and not self.active:
            self._quiet.set()

    def _pump(self, *, waited: bool = False) -> None:
        # Not ``len(self)``: every request comes by here four times.
        while self._running < self._ahead and (self._single or self._frames or self._behind):
            if self._running and not waited and self._should_wait():
                break
            self._start(self._gather())

    def _gather(self) -> list[QueuedJob]:
        """Take the next batch. Frames that a model keeps state of are no batch: they go alone."""
        stateful = self._worker.facts.stateful
        if self._behind and (self._is_overdue() or not (self._single or self._frames)):
            return self._gather_behind(stateful=stateful)
        batch = [self._next()]
        if stateful and batch[0].job.session is not None:
            return batch
        while len(batch) < self._max_batch and (self._single or (self._frames and not stateful)):
            batch.append(self._single.popleft() if stateful else self._next())
        return batch

    def _is_overdue(self) -> bool:
        """Whether background work has waited for too long; a batch of it begins the time anew."""
        since = max(self._behind[0].since, self._behind_left)
        return time.perf_counter() - since >= self._longest_behind

    def _gather_behind(self, *, stateful: bool) -> list[QueuedJob]:
        """Take a batch of background work; of a stateful model's, frames and requests alone."""
        self._behind_left = time.perf_counter()
        size = 1 if stateful else self._max_batch
        return [self._behind.popleft() for _ in range(min(size, len(self._behind)))]

    def _next(self) -> QueuedJob:
        """Take a frame and a single request in turn, as far as there are both."""
        queue = self._frames if self._frame_next else self._single
        self._frame_next = not self._frame_next
        return (queue or self._frames or self._single).popleft()

    def _hold(self, suspect: bool) -> None:
        """Keep what waits until it is known whether the worker is lost; then go on.

        An answer of it is a sign of life too, after which as much is sent ahead as ever.
        """
        self._ahead = 0 if suspect else AHEAD * self._worker.width
        if not suspect and not self._worker.alive:
            self._give_back(NodeDied())
        self._pump()
        self._tell_quiet()

    def _should_wait(self) -> bool:
        if self._max_wait <= 0 or len(self) >= self._max_batch:
            return False
        if self._timer is None:
            self._timer = self._loop.call_later(self._max_wait, self._waited)
        return True

    def _waited(self) -> None:
        self._timer = None
        self._pump(waited=True)

    def _start(self, batch: list[QueuedJob]) -> None:
        now = time.perf_counter()
        sent = Batch(batch)
        for waiting in batch:
            waiting.queue_ms = round((now - waiting.since) * 1e3, 3)
            waiting.batch = sent
        self._running += 1
        self._given += len(batch)
        answered = functools.partial(self._answered, batch)
        try:
            sent.drop = self._worker.infer([waiting.job for waiting in batch], answered)
        except MataError as error:
            self._answered(batch, error)
        except Exception:
            log.exception("unexpected failure of a worker")
            self._answered(batch, MataError("The model failed"))

    def _answered(self, batch: list[QueuedJob], answer: list[Outcome] | MataError) -> None:
        self._running -= 1
        self._given -= len(batch)
        for waiting in batch:
            waiting.batch = None  # a ring would keep its pixels until they are collected
        if isinstance(answer, MataError):
            for index, waiting in enumerate(batch):
                _fail(waiting, _of_one(answer, index))
        else:
            self._pace(answer)
            for waiting, outcome in zip(batch, answer, strict=True):
                if not waiting.future.done():
                    waiting.future.set_result(outcome)
        if not self._worker.alive:
            self._give_back(answer)
        self._pump()
        self._tell_quiet()

    def _pace(self, answer: list[Outcome]) -> None:
        """Learn from what a batch took how much to send ahead: what is sent is in no batch.

        While decoding takes longer than the model, so many are decoded at once that it never waits.
        The images of one batch are that already. A picture that is refused tells nothing.

        What is sent ahead is bound to one replica. With a slow model it rather stays here, for
        whichever is done first, unless a replica keeps the state of its session.
        """
        worker = self._worker
        infer, decode = -1.0, 0.0
        for outcome in answer:
            if outcome.failure is None:
                timing = outcome.timing
                infer = max(infer, timing.infer)
                decode += timing.decode
        if infer < 0.0:
            return
        helpers = min(int(decode / max(infer, LEAST_MS)), worker.facts.decoders)
        each = AHEAD if decode + infer < QUICK_MS else int(self._max_batch == 1)
        slow = infer > SLOW * max(decode, LEAST_MS) and infer > QUICK_MS
        late = slow and worker.width > 1 and not worker.facts.stateful
        self._ahead = (1 if late else AHEAD + each * helpers) * worker.width

    def _give_back(self, answer: list[Outcome] | MataError) -> None:
        """Have the jobs that the dead worker was not given go to the next one."""
        replaced = isinstance(answer, (Spoilt, Overgrown, Displaced, NodeDied))
        for queue in (self._single, self._frames, self._behind):
            while queue:
                gone = NotDispatchedError("The model's worker is gone")
                _fail(queue.popleft(), Displaced() if replaced else gone)


def _of_one(error: MataError, index: int) -> MataError:
    """Return what an error of a batch is to one of its jobs: one image alone may have spoilt it."""
    return Displaced() if isinstance(error, Spoilt) and error.job != index else error


def _fail(waiting: QueuedJob, error: MataError) -> None:
    if not waiting.future.done():
        waiting.future.set_exception(error)
        waiting.future.exception()
