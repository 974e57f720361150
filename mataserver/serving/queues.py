"""The jobs that wait for one worker, and which of them make the next batch.

Video sessions and single requests queue apart and take turns: a flood of either leaves the other
its half. Background work is taken when nothing else waits, or when it has waited for long, and
shares no batch with others.
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

    from mataserver.engines.work import Job, Outcome
    from mataserver.errors import MataError

log = logging.getLogger("mataserver.batching")


class Ticket:
    """Stands where a future does for whoever is no task: ``take`` is called as it is settled.

    A future would have it called in the next turn of the loop, which costs a look at all sockets.
    """

    __slots__ = ("_done", "take")

    def __init__(self) -> None:
        self._done = False
        self.take: Callable[[Outcome | MataError], None] | None = None

    def done(self) -> bool:
        """Whether it is settled, or nobody waits for it any more."""
        return self._done

    def cancel(self) -> None:
        """Wait for it no more."""
        self._done, self.take = True, None

    def set_result(self, outcome: Outcome) -> None:
        """Settle it."""
        self._settle(outcome)

    def set_exception(self, error: MataError) -> None:
        """Settle it with why there is no outcome."""
        self._settle(error)

    def exception(self) -> None:
        """Do nothing: who is not called will not be told that nobody looked."""

    def _settle(self, answer: Outcome | MataError) -> None:
        # What is kept no longer makes no ring with the job, which holds a picture.
        take, self.take = self.take, None
        self._done = True
        if take is None:
            return
        try:
            take(answer)
        except Exception:  # others of the same batch wait for theirs
            log.exception("what was found could not be told")


@dataclass(slots=True, eq=False)
class QueuedJob:
    """A job in the queue."""

    job: Job
    future: asyncio.Future[Outcome] | Ticket
    since: float = field(default_factory=time.perf_counter)
    queue_ms: float = 0.0
    batch: Batch | None = None


@dataclass(slots=True, eq=False)
class Batch:
    """Jobs that the worker was given together, and how to tell it that nobody waits for them."""

    jobs: list[QueuedJob]
    drop: Callable[[], None] | None = None


class JobQueues:
    """Three queues: of single requests, of sessions' frames, and of background work.

    Of single requests and of background work at most ``limit`` wait; a session has a few frames at
    most, and a flood of requests must not shut it out. Background work waits for
    ``longest_behind`` seconds at most while there is other work.
    """

    def __init__(self, max_batch: int, limit: int, longest_behind: float) -> None:
        self._max_batch = max_batch
        self._limit = limit
        self._longest_behind = longest_behind
        self._behind_left = 0.0
        self._frame_next = False
        # Public: whoever asks at every request whether anything waits looks at them directly.
        self.single: deque[QueuedJob] = deque()
        self.frames: deque[QueuedJob] = deque()
        self.behind: deque[QueuedJob] = deque()

    def __len__(self) -> int:
        return len(self.single) + len(self.frames) + len(self.behind)

    def queue_for(self, job: Job, *, behind: bool) -> deque[QueuedJob]:
        """Return the queue of a job. Raises ``Unavailable`` when it is full."""
        queue = self.behind if behind else self.frames if job.session else self.single
        if len(queue) >= self._limit and queue is not self.frames:
            raise Unavailable("The model's queue is full", retry_after=1)
        return queue

    def take_batch(self, *, stateful: bool) -> list[QueuedJob]:
        """Take the next batch. Frames that a model keeps state of are no batch: they go alone."""
        if self.behind and (self._is_overdue() or not (self.single or self.frames)):
            return self._take_behind(stateful=stateful)
        batch = [self._next()]
        if stateful and batch[0].job.session is not None:
            return batch
        while len(batch) < self._max_batch and (self.single or (self.frames and not stateful)):
            batch.append(self.single.popleft() if stateful else self._next())
        return batch

    def clear(self) -> Iterator[QueuedJob]:
        """Take every job that waits."""
        for queue in (self.single, self.frames, self.behind):
            while queue:
                yield queue.popleft()

    def _is_overdue(self) -> bool:
        """Whether background work has waited for too long; a batch of it begins the time anew."""
        since = max(self.behind[0].since, self._behind_left)
        return time.perf_counter() - since >= self._longest_behind

    def _take_behind(self, *, stateful: bool) -> list[QueuedJob]:
        """Take a batch of background work; of a stateful model's, frames and requests alone."""
        self._behind_left = time.perf_counter()
        size = 1 if stateful else self._max_batch
        return [self.behind.popleft() for _ in range(min(size, len(self.behind)))]

    def _next(self) -> QueuedJob:
        """Take a frame and a single request in turn, as far as there are both."""
        queue = self.frames if self._frame_next else self.single
        self._frame_next = not self._frame_next
        return (queue or self.frames or self.single).popleft()
