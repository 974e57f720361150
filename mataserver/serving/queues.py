"""The queued jobs of one worker: the selection of the next batch, and how many are sent ahead.

Video sessions and single requests have separate queues and alternate, so that a flood of either
leaves the other its half. Background work runs when nothing else is queued or after a maximum wait,
and in batches of its own.

The number of batches ahead adapts to the last answer's timing. It is one more than the worker runs,
so that the next is decoded concurrently; more if decoding dominates, so that none of its threads
idles, and more if a batch takes next to no time.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mataserver.errors import Unavailable

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator

    from mataserver.engines.work import Job, Outcome, Worker
    from mataserver.errors import MataError

BATCHES_PER_THREAD = 2
"""Batches in flight per worker thread that is in use."""
MIN_MS = 0.1
QUICK_MS = 3.0
"""Milliseconds below which a batch is quick: everything sent ahead completes soon."""
DECODE_BOUND_RATIO, QUICK_BATCHES = 5, 6
"""Ratio of decode to infer time from which the model is no bottleneck and larger batches gain
nothing; and the quick batches dispatched per decoding thread then. With fewer, threads sleep while
the server answers and reads: a tenth of the throughput (docs/performance.md).
"""
TINY_BATCHES, TINY_MS = 8, 0.3
"""Batches in flight for a worker that takes less than that many milliseconds for each: both ends
then wake up once for several of them."""
INFER_BOUND_RATIO = 20
"""Ratio of infer to decode time from which decoding ahead gains next to nothing."""
MAX_BACKGROUND_WAIT = 10.0
"""Maximum seconds that background work waits while there is other work."""

log = logging.getLogger("mataserver.batching")


def first_window(worker: Worker) -> int:
    """Return the window of a worker without history."""
    return BATCHES_PER_THREAD * worker.width


def window_after(answer: list[Outcome], worker: Worker, max_batch: int) -> int | None:
    """Return the number of batches in flight for a worker, None if the answer is uninformative.

    While decoding takes longer than the model, enough batches are decoded concurrently to keep the
    model busy. The images of one batch already are. A rejected picture is uninformative.

    A batch that was sent ahead cannot grow and is bound to one replica. With a slow model it is
    better kept here, for the first replica that becomes free, unless a replica holds the session's
    state.
    """
    infer, decode = -1.0, 0.0
    for outcome in answer:
        if outcome.failure is None:
            timing = outcome.timing
            infer = max(infer, timing.infer)
            decode += timing.decode
    if infer < 0.0:
        return None
    helpers = min(int(decode / max(infer, MIN_MS)), worker.report.decoders)
    quick = QUICK_BATCHES if decode > DECODE_BOUND_RATIO * infer else BATCHES_PER_THREAD
    each = quick if decode + infer < QUICK_MS else int(max_batch == 1)
    slow = infer > INFER_BOUND_RATIO * max(decode, MIN_MS) and infer > QUICK_MS
    late = slow and worker.width > 1 and not worker.report.stateful
    many = TINY_BATCHES if decode + infer < TINY_MS else BATCHES_PER_THREAD + each * helpers
    return (1 if late else many) * worker.width


class Ticket:
    """A future's replacement for callers without a task: calls ``take`` as soon as it is completed.

    A future would call it in the loop's next iteration, which costs a poll of all sockets.
    """

    __slots__ = ("_done", "take")

    def __init__(self) -> None:
        self._done = False
        self.take: Callable[[Outcome | MataError], None] | None = None

    def done(self) -> bool:
        """Whether it is completed or cancelled."""
        return self._done

    def cancel(self) -> None:
        """Cancel it: ``take`` will not be called."""
        self._done, self.take = True, None

    def set_result(self, outcome: Outcome) -> None:
        """Complete it with an outcome."""
        self._complete(outcome)

    def set_exception(self, error: MataError) -> None:
        """Complete it with an error."""
        self._complete(error)

    def exception(self) -> None:
        """Do nothing: unlike a future, it does not warn of unretrieved exceptions."""

    def _complete(self, answer: Outcome | MataError) -> None:
        # Dropping the callback breaks a reference cycle with the job, which holds a picture.
        take, self.take = self.take, None
        self._done = True
        if take is None:
            return
        try:
            take(answer)
        except Exception:  # other jobs of the batch must still be completed
            log.exception("the callback of a completed job failed")


@dataclass(slots=True, eq=False)
class QueuedJob:
    """A queued job."""

    job: Job
    future: asyncio.Future[Outcome] | Ticket
    queued_at: float = field(default_factory=time.perf_counter)
    queue_ms: float = 0.0
    batch: Batch | None = None


@dataclass(slots=True, eq=False)
class Batch:
    """Jobs dispatched together, and the function that cancels them in the worker."""

    jobs: list[QueuedJob]
    cancel: Callable[[], None] | None = None


class JobQueues:
    """Three queues: single requests, sessions' frames, and background work.

    At most ``limit`` single requests and background jobs are queued; frames are not limited, as a
    session has only a few and must not be starved by requests.
    """

    def __init__(self, max_batch: int, limit: int) -> None:
        self._max_batch = max_batch
        self._limit = limit
        self._low_priority_taken_at = 0.0
        self._frame_next = False
        # Public: read directly by the batcher, several times per request.
        self.single: deque[QueuedJob] = deque()
        self.frames: deque[QueuedJob] = deque()
        self.low_priority: deque[QueuedJob] = deque()

    def __len__(self) -> int:
        return len(self.single) + len(self.frames) + len(self.low_priority)

    def queue_for(self, job: Job, *, low_priority: bool) -> deque[QueuedJob]:
        """Return a job's queue. Raises ``Unavailable`` if it is full."""
        queue = self.low_priority if low_priority else self.frames if job.session else self.single
        if len(queue) >= self._limit and queue is not self.frames:
            raise Unavailable("The model's queue is full", retry_after=1)
        return queue

    def take_batch(self, *, stateful: bool) -> list[QueuedJob]:
        """Take the next batch. Frames of a stateful model are never batched."""
        if self.low_priority and (self._is_overdue() or not (self.single or self.frames)):
            return self._take_low_priority(stateful=stateful)
        batch = [self._next()]
        if stateful and batch[0].job.session is not None:
            return batch
        while len(batch) < self._max_batch and (self.single or (self.frames and not stateful)):
            batch.append(self.single.popleft() if stateful else self._next())
        return batch

    def clear(self) -> Iterator[QueuedJob]:
        """Remove and yield every queued job."""
        for queue in (self.single, self.frames, self.low_priority):
            while queue:
                yield queue.popleft()

    def _is_overdue(self) -> bool:
        """Whether background work has waited too long since its last batch."""
        queued_at = max(self.low_priority[0].queued_at, self._low_priority_taken_at)
        return time.perf_counter() - queued_at >= MAX_BACKGROUND_WAIT

    def _take_low_priority(self, *, stateful: bool) -> list[QueuedJob]:
        """Take a batch of background work; of one job if the model is stateful."""
        self._low_priority_taken_at = time.perf_counter()
        size = 1 if stateful else self._max_batch
        return [self.low_priority.popleft() for _ in range(min(size, len(self.low_priority)))]

    def _next(self) -> QueuedJob:
        """Take from frames and single requests alternately, if both are queued."""
        queue = self.frames if self._frame_next else self.single
        self._frame_next = not self._frame_next
        return (queue or self.frames or self.single).popleft()
