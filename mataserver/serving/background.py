"""Background work: schedules low-priority inferences so that they do not delay other requests.

After ``QUIET`` seconds without other requests, background jobs run at once and concurrently.
Otherwise they run one by one, each while no other request is in flight. A running job cannot be
preempted, so requests that arrive meanwhile are delayed: at most one of ``REQUESTS_PER_JOB``, which
leaves their 95th percentile unchanged. Under permanent load background work still gets a small
share of the time.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

BACKGROUND: ContextVar[bool] = ContextVar("background", default=False)
"""Whether this context does background work: the gate sets it for requests that ask for it."""

QUIET = 5.0
"""Seconds without other requests after which background work runs freely."""
REQUESTS_PER_JOB = 40
"""At most one of this many requests may find a job running. Under permanent load, a job waits for
this many times the duration of the previous one."""
MIN_PAUSE = 10.0
"""Minimum of that wait in seconds: short requests are numerous in that time."""
MAX_DEBT = 8 * REQUESTS_PER_JOB
IDLE_WAIT = 1.0
"""Seconds that the job whose turn it is waits for a moment without other requests."""


class Background:
    """Schedules background jobs. ``clock`` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._foreground = 0
        self._running = 0
        self._credit = 0
        self._pause = MIN_PAUSE
        self._foreground_ended_at = self._job_ended_at = float("-inf")
        self._turn_lock = asyncio.Lock()
        self._changed = asyncio.Event()

    def foreground_started(self) -> None:
        """Record the start of a foreground request."""
        self._foreground += 1
        if self._running:
            self._credit = max(-MAX_DEBT, self._credit - REQUESTS_PER_JOB)
        elif self._credit < REQUESTS_PER_JOB:
            self._credit += 1

    def foreground_ended(self) -> None:
        """Record the end of a foreground request."""
        self._foreground -= 1
        if not self._foreground:
            self._foreground_ended_at = self._clock()
            self._changed.set()

    def record_duration(self, seconds: float) -> None:
        """Record the duration of a job, from which the next wait is computed."""
        self._pause = max(MIN_PAUSE, REQUESTS_PER_JOB * seconds)

    @contextlib.contextmanager
    def foreground(self) -> Iterator[None]:
        """Count a foreground request until the context ends; no-op for background work."""
        if BACKGROUND.get():
            yield
            return
        self.foreground_started()
        try:
            yield
        finally:
            self.foreground_ended()

    @contextlib.asynccontextmanager
    async def scheduled(self) -> AsyncIterator[None]:
        """Wait for a turn if this is background work, else count a foreground request."""
        if BACKGROUND.get():
            async with self.turn():
                yield
        else:
            with self.foreground():
                yield

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[bool]:
        """Wait for a turn and hold it until the context ends.

        Yields whether the job should queue behind others: False once it has waited long enough.
        """
        async with self._turn_lock:
            since = self._clock()
            while (wait := self.wait(since)) != 0.0:
                self._changed.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._changed.wait()
            self._running += 1
            low_priority = not self._foreground
        try:
            yield low_priority
        finally:
            self._running -= 1
            self._job_ended_at = self._clock()
            self._changed.set()

    def wait(self, since: float) -> float | None:
        """Return the seconds that a job waiting ``since`` must still wait; re-evaluate on a change.

        0 means now; None means until a change.
        """
        now = self._clock()
        quiet = self._foreground_ended_at + QUIET - now
        if not self._foreground and quiet <= 0:
            return 0.0
        if self._running:
            return None
        pause = 0.0 if self._credit >= 0 else self._job_ended_at + self._pause - now
        if not self._foreground:
            return max(0.0, min(pause, quiet))
        return max(0.0, pause, max(since, self._job_ended_at) + IDLE_WAIT - now)
