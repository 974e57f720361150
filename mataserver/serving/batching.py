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

from mataserver.engines.worker_errors import (
    DecodeTimeoutError,
    NodeDied,
    NotDispatchedError,
    WorkerReplacedError,
    undispatched_error,
)
from mataserver.errors import MataError, Unavailable
from mataserver.serving.queues import Batch, JobQueues, QueuedJob, first_window, window_after

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import AsyncGenerator, Iterator

    from mataserver.engines.work import Job, Outcome, Worker
    from mataserver.serving.queues import Ticket

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
    ) -> None:
        self._worker = worker
        self._loop = asyncio.get_running_loop()
        self._max_batch = max_batch
        self._max_wait = max_wait
        self._limit = queue_limit
        self._queues = JobQueues(max_batch, queue_limit)
        self._batches_in_flight = 0
        self._jobs_in_flight = 0
        self._leases = 0
        self._window = first_window(worker)
        self._idle: asyncio.Event | None = None
        self._timer: asyncio.TimerHandle | None = None
        worker.on_suspect(self._on_suspect)

    @property
    def active(self) -> bool:
        """Whether anything is queued, running or holding a lease."""
        return bool(self._batches_in_flight or self._leases or len(self))

    @property
    def load(self) -> int:
        """Number of jobs queued or running; a lease counts as one."""
        return len(self) + self._jobs_in_flight + self._leases

    def __len__(self) -> int:
        """Return the number of queued jobs."""
        return len(self._queues)

    async def submit(self, job: Job, *, low_priority: bool = False) -> tuple[Outcome, float]:
        """Run one job; return its outcome and its queueing time in milliseconds.

        A session's job is accepted even if the queue is full: a session has only a few, and a flood
        of requests must not starve it. A job that is ``low_priority`` runs when nothing else is
        queued, or after a maximum wait.

        Raises ``Unavailable`` if the queue is full, ``WorkerDied`` if the worker died with the job,
        and ``NotDispatchedError`` if it died before it. ``WorkerReplacedError`` means that the
        worker was replaced because of another client's image: the job can go to the next worker.
        """
        if not self._worker.is_alive:
            raise NotDispatchedError
        queue = self._queues.queue_for(job, low_priority=low_priority)
        future: asyncio.Future[Outcome] = self._loop.create_future()
        queued = QueuedJob(job, future)
        queue.append(queued)
        self._pump()
        try:
            return await future, queued.queue_ms
        except asyncio.CancelledError:
            self._cancel(queued, queue)
            raise

    def begin(self, job: Job, ticket: Ticket) -> QueuedJob | None:
        """Enqueue a job without a task; return None if it fails at once.

        The ticket is completed later, with what ``submit`` returns or raises.
        """
        queue = self._queues.frames if job.session else self._queues.single
        if not self._worker.is_alive or (len(queue) >= self._limit and not job.session):
            return None
        queued = QueuedJob(job, ticket)
        queue.append(queued)
        self._pump()
        return None if ticket.done() else queued

    def cancel(self, queued: QueuedJob) -> None:
        """Cancel a job started by ``begin``."""
        queued.future.cancel()
        queues = self._queues
        self._cancel(queued, queues.frames if queued.job.session else queues.single)

    @staticmethod
    def _cancel(queued: QueuedJob, queue: deque[QueuedJob]) -> None:
        """Cancel a job; also the worker's batch, if all its jobs were cancelled."""
        batch = queued.batch
        if batch is None:
            with contextlib.suppress(ValueError):
                queue.remove(queued)
        elif batch.cancel is not None and all(each.future.done() for each in batch.jobs):
            batch.cancel()

    async def generate(self, job: Job) -> AsyncGenerator[str | Outcome]:
        """Yield the text pieces that the model produces for a job, then its outcome.

        Closing the iterator stops the work. Raises as ``submit`` does.
        """
        if not self._worker.is_alive:
            raise NotDispatchedError
        if job.session is None and self._leases >= self._limit:
            raise Unavailable("The model's queue is full", retry_after=1)
        with self.lease_worker():
            async with contextlib.aclosing(self._worker.generate(job)) as items:
                async for item in items:
                    if item != "":  # no text yet: the model says that it is at work
                        yield item

    @contextlib.contextmanager
    def lease_worker(self) -> Iterator[Worker]:
        """Lease the worker for other work than jobs; it is not unloaded until the context ends."""
        self._leases += 1
        try:
            yield self._worker
        finally:
            self._leases -= 1
            self._notify_idle()

    async def drain(self) -> None:
        """Wait until nothing is queued, running or holding a lease."""
        while self.active:
            self._idle = self._idle or asyncio.Event()
            self._idle.clear()
            await self._idle.wait()

    def _notify_idle(self) -> None:
        if self._idle is not None and not self.active:
            self._idle.set()

    def _pump(self, *, waited: bool = False) -> None:
        # Not ``len(self)``: this runs four times per request.
        queues = self._queues
        while self._batches_in_flight < self._window and (
            queues.single or queues.frames or queues.low_priority
        ):
            if self._batches_in_flight and not waited and self._should_wait():
                break
            self._start(queues.take_batch(stateful=self._worker.report.stateful))

    def _on_suspect(self, suspect: bool) -> None:
        """Stop dispatching while the worker is suspect; resume when that is resolved.

        An answer also proves that it is alive, and restores the window.
        """
        self._window = 0 if suspect else first_window(self._worker)
        if not suspect and not self._worker.is_alive:
            self._fail_queued(NodeDied())
        self._pump()
        self._notify_idle()

    def _should_wait(self) -> bool:
        if self._max_wait <= 0 or len(self) >= self._max_batch:
            return False
        if self._timer is None:
            self._timer = self._loop.call_later(self._max_wait, self._on_wait_over)
        return True

    def _on_wait_over(self) -> None:
        self._timer = None
        self._pump(waited=True)

    def _start(self, batch: list[QueuedJob]) -> None:
        now = time.perf_counter()
        sent = Batch(batch)
        for queued in batch:
            queued.queue_ms = round((now - queued.queued_at) * 1e3, 3)
            queued.batch = sent
        self._batches_in_flight += 1
        self._jobs_in_flight += len(batch)
        on_answer = functools.partial(self._on_answer, batch)
        try:
            sent.cancel = self._worker.infer([queued.job for queued in batch], on_answer)
        except MataError as error:
            self._on_answer(batch, error)
        except (Exception, SystemExit):  # an engine may be a plugin's
            log.exception("unexpected failure of a worker")
            self._on_answer(batch, MataError("The model failed"))

    def _on_answer(self, batch: list[QueuedJob], answer: list[Outcome] | MataError) -> None:
        self._batches_in_flight -= 1
        self._jobs_in_flight -= len(batch)
        for queued in batch:
            queued.batch = None  # breaks a reference cycle that would retain the job's pixels
        if isinstance(answer, MataError):
            for index, queued in enumerate(batch):
                _fail(queued, _error_for_job(answer, index))
        else:
            self._window = window_after(answer, self._worker, self._max_batch) or self._window
            for queued, outcome in zip(batch, answer, strict=True):
                if not queued.future.done():
                    queued.future.set_result(outcome)
        if not self._worker.is_alive:
            self._fail_queued(answer)
        self._pump()
        self._notify_idle()

    def _fail_queued(self, answer: list[Outcome] | MataError) -> None:
        """Fail the jobs that a dead worker never received, to be retried on the next one."""
        for queued in self._queues.clear():
            _fail(queued, undispatched_error(answer))


def _error_for_job(error: MataError, index: int) -> MataError:
    """Return a batch's error as seen by one of its jobs: a bad image fails only its own."""
    if isinstance(error, DecodeTimeoutError) and error.job != index:
        return WorkerReplacedError()
    return error


def _fail(queued: QueuedJob, error: MataError) -> None:
    if not queued.future.done():
        queued.future.set_exception(error)
        queued.future.exception()
