"""Background work: schedules low-priority inferences so that they do not delay other requests.

After ``QUIET`` seconds without other requests, background jobs run at once and concurrently.
Otherwise they run one by one, each while no other request is in flight. A running job cannot be
preempted, so requests that arrive meanwhile are delayed: at most one of ``SPARED``, which leaves
their 95th percentile unchanged. Under permanent load background work still gets a small share of
the time.
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
SPARED = 40
"""At most one of this many requests may find a job running. Under permanent load, a job waits for
this many times the duration of the previous one."""
LEAST_PAUSE = 10.0
"""Minimum of that wait in seconds: short requests are numerous in that time."""
LONGEST_DEBT = 8 * SPARED
PATIENCE = 1.0
"""Seconds that the job whose turn it is waits for a moment without other requests."""


class Background:
    """Schedules background jobs. ``clock`` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._others = 0
        self._pieces = 0
        self._credit = 0
        self._pause = LEAST_PAUSE
        self._others_left = self._pieces_left = float("-inf")
        self._first = asyncio.Lock()
        self._changed = asyncio.Event()

    def others_came(self) -> None:
        """Record the start of a foreground request."""
        self._others += 1
        if self._pieces:
            self._credit = max(-LONGEST_DEBT, self._credit - SPARED)
        elif self._credit < SPARED:
            self._credit += 1

    def others_left(self) -> None:
        """Record the end of a foreground request."""
        self._others -= 1
        if not self._others:
            self._others_left = self._clock()
            self._changed.set()

    def note(self, seconds: float) -> None:
        """Record the duration of a job, from which the next wait is computed."""
        self._pause = max(LEAST_PAUSE, SPARED * seconds)

    @contextlib.contextmanager
    def others(self) -> Iterator[None]:
        """Count a foreground request until the context ends; no-op for background work."""
        if BACKGROUND.get():
            yield
            return
        self.others_came()
        try:
            yield
        finally:
            self.others_left()

    @contextlib.asynccontextmanager
    async def entered(self) -> AsyncIterator[None]:
        """Wait for a turn if this is background work, else count a foreground request."""
        if BACKGROUND.get():
            async with self.turn():
                yield
        else:
            with self.others():
                yield

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[bool]:
        """Wait for a turn and hold it until the context ends.

        Yields whether the job should queue behind others: False once it has waited long enough.
        """
        async with self._first:
            since = self._clock()
            while (wait := self.wait(since)) != 0.0:
                self._changed.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._changed.wait()
            self._pieces += 1
            behind = not self._others
        try:
            yield behind
        finally:
            self._pieces -= 1
            self._pieces_left = self._clock()
            self._changed.set()

    def wait(self, since: float) -> float | None:
        """Return the seconds that a job waiting ``since`` must still wait; re-evaluate on a change.

        0 means now; None means until a change.
        """
        now = self._clock()
        quiet = self._others_left + QUIET - now
        if not self._others and quiet <= 0:
            return 0.0
        if self._pieces:
            return None
        pause = 0.0 if self._credit >= 0 else self._pieces_left + self._pause - now
        if not self._others:
            return max(0.0, min(pause, quiet))
        return max(0.0, pause, max(since, self._pieces_left) + PATIENCE - now)
