"""The batcher: one queue per loaded model.

Requests that wait together run together. With an idle model the first request goes at once; while
the model is busy a batch that is not full may wait ``max_wait`` for more. A second batch is sent
ahead, so that the worker decodes it while the first one runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mataserver.errors import MataError, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from mataserver.engines.work import Job, Outcome, Worker

AHEAD = 2

log = logging.getLogger("mataserver.batching")


class NotDispatchedError(MataError):
    """The worker died before it was given this job: the job can go to the next worker."""


@dataclass(slots=True, eq=False)
class Waiting:
    """A job in the queue."""

    job: Job
    future: asyncio.Future[Outcome]
    since: float = field(default_factory=time.perf_counter)
    queue_ms: float = 0.0


class Batcher:
    """Feeds one worker. ``changed(length)`` is called when the queue's length changes."""

    def __init__(
        self,
        worker: Worker,
        *,
        max_batch: int,
        max_wait: float,
        queue_limit: int,
        deadline: float,
        changed: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._worker = worker
        self._max_batch = max_batch
        self._max_wait = max_wait
        self._limit = queue_limit
        self._deadline = deadline
        self._changed = changed
        self._queue: deque[Waiting] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._streams = 0
        self._quiet = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def active(self) -> bool:
        """Whether a job is queued or running."""
        return bool(self._queue or self._running or self._streams)

    async def submit(self, job: Job) -> tuple[Outcome, float]:
        """Run one job; return its outcome and the milliseconds it waited.

        A session's job is not refused for a full queue: a session has but one at a time, and a
        flood of requests must not shut it out.

        Raises ``Unavailable`` when the queue is full, ``WorkerDied`` when the worker died with the
        job, ``NotDispatchedError`` when it died before.
        """
        if not self._worker.alive:
            raise NotDispatchedError("The model's worker is gone")
        if job.session is None and len(self._queue) >= self._limit:
            raise Unavailable("The model's queue is full", retry_after=1)
        waiting = Waiting(job, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._pump()
        try:
            return await waiting.future, waiting.queue_ms
        finally:
            if not waiting.future.done() or waiting.future.cancelled():
                self._forget(waiting)

    async def generate(self, job: Job) -> AsyncGenerator[str | Outcome]:
        """Yield the pieces of text that the model makes for a job, then its outcome.

        Closing the iterator stops the work. Raises as ``submit`` does.
        """
        if not self._worker.alive:
            raise NotDispatchedError("The model's worker is gone")
        if job.session is None and self._streams >= self._limit:
            raise Unavailable("The model's queue is full", retry_after=1)
        self._streams += 1
        self._quiet.clear()
        try:
            async with contextlib.aclosing(self._worker.generate(job, self._deadline)) as items:
                async for item in items:
                    yield item
        finally:
            self._streams -= 1
            if not self._streams:
                self._quiet.set()

    async def drain(self) -> None:
        """Wait until nothing is queued, running or streaming."""
        if self._streams:
            await self._quiet.wait()
        while self._running or self._queue:
            if self._running:
                await asyncio.wait(self._running)
            else:
                await asyncio.sleep(0)

    def _forget(self, waiting: Waiting) -> None:
        if waiting in self._queue:
            self._queue.remove(waiting)
            self._changed(len(self._queue))

    def _pump(self, *, waited: bool = False) -> None:
        while self._queue and len(self._running) < AHEAD:
            if self._running and not waited and self._should_wait():
                break
            count = min(self._max_batch, len(self._queue))
            self._start([self._queue.popleft() for _ in range(count)])
        self._changed(len(self._queue))

    def _should_wait(self) -> bool:
        if self._max_wait <= 0 or len(self._queue) >= self._max_batch:
            return False
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._max_wait, self._waited)
        return True

    def _waited(self) -> None:
        self._timer = None
        self._pump(waited=True)

    def _start(self, batch: list[Waiting]) -> None:
        now = time.perf_counter()
        for waiting in batch:
            waiting.queue_ms = round((now - waiting.since) * 1e3, 3)
        deadline = self._deadline * (1 + len(self._running))
        task = asyncio.get_running_loop().create_task(self._run(batch, deadline))
        self._running.add(task)
        task.add_done_callback(self._finished)

    async def _run(self, batch: list[Waiting], deadline: float) -> None:
        try:
            outcomes = await self._worker.infer([waiting.job for waiting in batch], deadline)
        except MataError as error:
            for waiting in batch:
                _fail(waiting, error)
            return
        except Exception:
            log.exception("a worker failed in a way of its own")
            for waiting in batch:
                _fail(waiting, MataError("The model failed"))
            return
        for waiting, outcome in zip(batch, outcomes, strict=True):
            if not waiting.future.done():
                waiting.future.set_result(outcome)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not self._worker.alive:
            while self._queue:
                _fail(self._queue.popleft(), NotDispatchedError("The model's worker is gone"))
        self._pump()


def _fail(waiting: Waiting, error: MataError) -> None:
    if not waiting.future.done():
        waiting.future.set_exception(error)
        waiting.future.exception()
