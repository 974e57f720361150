"""Runs the jobs of models that write text as streams, also for callers that want the whole text.

A long text takes many steps of the network. As a stream each piece is progress, so that the model
is not taken to hang, and a text that nobody waits for any more ends at the next piece.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from mataserver.engines.work import Outcome
from mataserver.engines.worker_errors import ABANDONED, undispatched_error
from mataserver.errors import MataError, Unavailable
from mataserver.plugin_ends import ends_logged

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mataserver.engines.work import BatchCallback, Job, Worker

TASKS = frozenset({"ocr", "vlm"})
"""The tasks some of whose models write text."""

log = logging.getLogger("mataserver.batching")


def for_batcher(worker: Worker, task: str, max_batch: int) -> tuple[Worker, int]:
    """Return the worker that a batcher uses, and how many jobs it takes in one batch.

    A model that does not write in pieces computes its batches with ``predict``, and one that keeps
    state between frames needs its sessions' own steps.
    """
    report = worker.report
    if task not in TASKS or not report.streams or report.stateful:
        return worker, max_batch
    return cast("Worker", TextWorker(worker, max_batch)), 1


class TextWorker:
    """A worker whose ``infer`` runs jobs as streams: batches of one job, in order of arrival.

    ``together`` run concurrently in each replica: each ends by itself, and its place is free then.
    Everything else is what ``worker`` does.
    """

    def __init__(self, worker: Worker, together: int) -> None:
        self._worker = worker
        self._together = together
        self._waiting: deque[_TextJob] = deque()
        self._running = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._worker, name)

    @property
    def width(self) -> int:
        """How many jobs run concurrently."""
        return max(1, self._worker.width) * self._together

    def infer(self, jobs: Sequence[Job], callback: BatchCallback) -> Callable[[], None]:
        """Run a batch of one job; return a function that cancels it, running or not."""
        [job] = jobs
        text_job = _TextJob(job, callback)
        self._waiting.append(text_job)
        self._start_next()
        return lambda: self._cancel(text_job)

    def _start_next(self) -> None:
        while self._waiting and self._running < self.width:
            self._running += 1
            text_job = self._waiting.popleft()
            text_job.task = asyncio.create_task(self._run(text_job.job))
            text_job.task.add_done_callback(functools.partial(self._on_done, text_job))

    def _cancel(self, text_job: _TextJob) -> None:
        if text_job.task is not None:
            text_job.task.cancel()
        elif text_job in self._waiting:
            self._waiting.remove(text_job)
            text_job.callback(ABANDONED.error(Unavailable))

    async def _run(self, job: Job) -> list[Outcome] | MataError:
        answer: list[Outcome] | MataError = MataError("The model failed")
        with ends_logged(log, "unexpected failure of a worker"):  # an engine may be a plugin's
            try:
                async with contextlib.aclosing(self._worker.generate(job)) as items:
                    async for item in items:
                        if isinstance(item, Outcome):
                            answer = [item]
            except MataError as error:
                return error
        return answer

    def _on_done(self, text_job: _TextJob, task: asyncio.Task[list[Outcome] | MataError]) -> None:
        self._running -= 1
        answer = ABANDONED.error(Unavailable) if task.cancelled() else task.result()
        text_job.callback(answer)
        if not self._worker.is_alive:
            self._fail_waiting(answer)
        self._start_next()

    def _fail_waiting(self, answer: list[Outcome] | MataError) -> None:
        """Fail the jobs that a dead worker never received, as the batcher fails its own."""
        waiting, self._waiting = self._waiting, deque()
        for text_job in waiting:
            text_job.callback(undispatched_error(answer))


@dataclass(slots=True, eq=False)
class _TextJob:
    """A job, who wants its outcome, and the task that runs it once its turn has come."""

    job: Job
    callback: BatchCallback
    task: asyncio.Task[list[Outcome] | MataError] | None = None
