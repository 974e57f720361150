"""The batcher: dispatches the queued jobs of a model to one worker.

Jobs that are queued together run together. On an idle model the first job runs at once; while the
model is busy, an incomplete batch may wait ``max_wait`` seconds for more jobs.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from typing import TYPE_CHECKING

from mataserver.engines.accidents import (
    Displaced,
    NodeDied,
    NotDispatchedError,
    Overgrown,
    Spoilt,
)
from mataserver.errors import MataError, Unavailable
from mataserver.serving.pacing import first_window, window_after
from mataserver.serving.queues import Batch, JobQueues, QueuedJob

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import AsyncGenerator, Iterator

    from mataserver.engines.work import Job, Outcome, Worker
    from mataserver.serving.queues import Ticket

LONG = 10.0
"""Maximum seconds that background work waits for empty queues."""

log = logging.getLogger("mataserver.batching")


class Batcher:
    """Dispatches jobs to one worker."""

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
        self._queues = JobQueues(max_batch, queue_limit, longest_behind)
        self._running = 0
        self._given = 0
        self._occupied = 0
        self._window = first_window(worker)
        self._quiet: asyncio.Event | None = None
        self._timer: asyncio.TimerHandle | None = None
        worker.on_suspect(self._hold)

    @property
    def active(self) -> bool:
        """Whether anything is queued, running or holding a lease."""
        return bool(self._running or self._occupied or len(self))

    @property
    def load(self) -> int:
        """Number of jobs queued or running; a lease counts as one."""
        return len(self) + self._given + self._occupied

    def __len__(self) -> int:
        """Return the number of queued jobs."""
        return len(self._queues)

    async def submit(self, job: Job, *, behind: bool = False) -> tuple[Outcome, float]:
        """Run one job; return its outcome and its queueing time in milliseconds.

        A session's job is accepted even if the queue is full: a session has only a few, and a flood
        of requests must not starve it. A job that is ``behind`` runs when nothing else is queued,
        or after a maximum wait.

        Raises ``Unavailable`` if the queue is full, ``WorkerDied`` if the worker died with the job,
        and ``NotDispatchedError`` if it died before it. ``Displaced`` means that the worker was
        replaced because of another client's image: the job can go to the next worker.
        """
        if not self._worker.alive:
            raise NotDispatchedError
        queue = self._queues.queue_for(job, behind=behind)
        future: asyncio.Future[Outcome] = self._loop.create_future()
        waiting = QueuedJob(job, future)
        queue.append(waiting)
        self._pump()
        try:
            return await future, waiting.queue_ms
        except asyncio.CancelledError:
            self._withdraw(waiting, queue)
            raise

    def begin(self, job: Job, ticket: Ticket) -> QueuedJob | None:
        """Enqueue a job without a task; return None if it fails at once.

        The ticket is completed later, with what ``submit`` returns or raises.
        """
        queue = self._queues.frames if job.session else self._queues.single
        if not self._worker.alive or (len(queue) >= self._limit and not job.session):
            return None
        waiting = QueuedJob(job, ticket)
        queue.append(waiting)
        self._pump()
        return None if ticket.done() else waiting

    def withdraw(self, waiting: QueuedJob) -> None:
        """Cancel a job started by ``begin``."""
        waiting.future.cancel()
        queues = self._queues
        self._withdraw(waiting, queues.frames if waiting.job.session else queues.single)

    @staticmethod
    def _withdraw(waiting: QueuedJob, queue: deque[QueuedJob]) -> None:
        """Cancel a job; also the worker's batch, if all its jobs were cancelled."""
        batch = waiting.batch
        if batch is None:
            with contextlib.suppress(ValueError):
                queue.remove(waiting)
        elif batch.drop is not None and all(each.future.done() for each in batch.jobs):
            batch.drop()

    async def generate(self, job: Job) -> AsyncGenerator[str | Outcome]:
        """Yield the text pieces that the model produces for a job, then its outcome.

        Closing the iterator stops the work. Raises as ``submit`` does.
        """
        if not self._worker.alive:
            raise NotDispatchedError
        if job.session is None and self._occupied >= self._limit:
            raise Unavailable("The model's queue is full", retry_after=1)
        with self.lease_worker():
            async with contextlib.aclosing(self._worker.generate(job)) as items:
                async for item in items:
                    yield item

    @contextlib.contextmanager
    def lease_worker(self) -> Iterator[Worker]:
        """Lease the worker for other work than jobs; it is not unloaded until the context ends."""
        self._occupied += 1
        try:
            yield self._worker
        finally:
            self._occupied -= 1
            self._tell_quiet()

    async def drain(self) -> None:
        """Wait until nothing is queued, running or holding a lease."""
        while self.active:
            self._quiet = self._quiet or asyncio.Event()
            self._quiet.clear()
            await self._quiet.wait()

    def _tell_quiet(self) -> None:
        if self._quiet is not None and not self.active:
            self._quiet.set()

    def _pump(self, *, waited: bool = False) -> None:
        # Not ``len(self)``: this runs four times per request.
        queues = self._queues
        while self._running < self._window and (queues.single or queues.frames or queues.behind):
            if self._running and not waited and self._should_wait():
                break
            self._start(queues.take_batch(stateful=self._worker.facts.stateful))

    def _hold(self, suspect: bool) -> None:
        """Stop dispatching while the worker is suspect; resume when that is resolved.

        An answer also proves that it is alive, and restores the window.
        """
        self._window = 0 if suspect else first_window(self._worker)
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
            waiting.batch = None  # breaks a reference cycle that would retain the job's pixels
        if isinstance(answer, MataError):
            for index, waiting in enumerate(batch):
                _fail(waiting, _of_one(answer, index))
        else:
            self._window = window_after(answer, self._worker, self._max_batch) or self._window
            for waiting, outcome in zip(batch, answer, strict=True):
                if not waiting.future.done():
                    waiting.future.set_result(outcome)
        if not self._worker.alive:
            self._give_back(answer)
        self._pump()
        self._tell_quiet()

    def _give_back(self, answer: list[Outcome] | MataError) -> None:
        """Fail the jobs that a dead worker never received, to be retried on the next one."""
        replaced = isinstance(answer, (Spoilt, Overgrown, Displaced, NodeDied))
        for waiting in self._queues.clear():
            _fail(waiting, Displaced() if replaced else NotDispatchedError())


def _of_one(error: MataError, index: int) -> MataError:
    """Return a batch's error as seen by one of its jobs: a bad image fails only its own."""
    return Displaced() if isinstance(error, Spoilt) and error.job != index else error


def _fail(waiting: QueuedJob, error: MataError) -> None:
    if not waiting.future.done():
        waiting.future.set_exception(error)
        waiting.future.exception()
