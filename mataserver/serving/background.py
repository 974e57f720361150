"""Background work: what can wait asks the models when that keeps nobody else waiting.

While nobody else has asked for ``QUIET`` seconds, background work goes at once and side by side.
Else it goes piece by piece, each when no other request is under way. A piece that has begun cannot
be taken back, so whoever asks meanwhile is kept waiting: that happens to one of ``SPARED`` requests
at most, which leaves their 95th percentile as it is. Who never rests does not shut it out: of the
time it always has its small share.
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
"""Whether what is done here is background work: the gate sets it for whoever asks so."""

QUIET = 5.0
"""Seconds without another request after which nobody is kept waiting any more."""
SPARED = 40
"""Of so many requests one may find a piece under way. Whatever goes on, a piece has its turn after
so many times what the one before it took."""
LEAST_PAUSE = 10.0
"""Seconds that this takes at least: requests that are quicker are many in that time."""
LONGEST_DEBT = 8 * SPARED
PATIENCE = 1.0
"""Seconds that a piece whose turn it is waits for a moment in which nobody else asks."""


class Background:
    """Gives background work its turns. ``clock`` counts seconds; nobody sets it."""

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
        """Note that a request which is no background work begins."""
        self._others += 1
        if self._pieces:
            self._credit = max(-LONGEST_DEBT, self._credit - SPARED)
        elif self._credit < SPARED:
            self._credit += 1

    def others_left(self) -> None:
        """Note that it has ended."""
        self._others -= 1
        if not self._others:
            self._others_left = self._clock()
            self._changed.set()

    def note(self, seconds: float) -> None:
        """Note for how long a model worked on a piece: the next one's pause is by that."""
        self._pause = max(LEAST_PAUSE, SPARED * seconds)

    @contextlib.contextmanager
    def others(self) -> Iterator[None]:
        """Note a request, until the context ends, unless it is background work itself."""
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
        """Wait for a turn, where this is background work; else note it as a request."""
        if BACKGROUND.get():
            async with self.turn():
                yield
        else:
            with self.others():
                yield

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[bool]:
        """Wait for a turn and hold it until the context ends.

        It is told whether others go before it in a queue: not once it has waited for long enough.
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
        """Return for how many seconds the piece that came ``since`` waits, or until a change.

        0 is now, and None that only a change lets it go.
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
