"""Detects a worker that hangs.

One timer per worker instead of per request: a worker processes one thing at a time, so it hangs if
requests are pending and it makes no progress, however many there are.

The timeout derives from the server's configuration, the backend's declaration, and experience: a
worker whose answer took nearly the limit may take longer over the next, larger one. It is bounded,
so that a hung worker is always detected.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mataserver.contract.backend import LONGEST_STEP

if TYPE_CHECKING:
    from collections.abc import Callable

MARGIN = 2.0
"""A step may take this many times as long as the slowest successful one."""
GROWTH = 4.0
"""Maximum factor by which experience extends the initial limit."""
LONGEST_PAUSE = 1.0


def pause(limit: float) -> float:
    """Return the interval in seconds at which a decode timeout of ``limit`` seconds is checked."""
    return min(LONGEST_PAUSE, limit / 4)


class Watchdog:
    """Calls ``hung()`` after ``limit`` seconds without progress while requests are pending.

    The limit starts at ``patience``. A worker's claim to be decoding extends it by at most
    ``decode_patience`` per pending image: the claim may be false.
    """

    def __init__(
        self, patience: float, hung: Callable[[], None], decode_patience: float = 0.0
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._patience = patience
        self._hung = hung
        self._decode_patience = decode_patience
        self._slowest = 0.0
        self._owed: dict[int, int] = {}
        self._progress = 0.0
        self._answered = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def limit(self) -> float:
        """The current timeout of a step in seconds."""
        learned = min(MARGIN * self._slowest, GROWTH * self._patience)
        return max(self._patience, learned)

    def allow(self, seconds: float) -> None:
        """Raise the limit to what the backend declares, up to ``LONGEST_STEP``."""
        self._patience = max(self._patience, min(seconds, LONGEST_STEP))

    def expect(self, what: int, images: int = 1) -> None:
        """Register a pending request about ``images`` images."""
        if not self._owed:
            self._progress = self._answered = self._loop.time()
        self._owed[what] = images
        if self._timer is None:
            self._timer = self._loop.call_later(self.limit, self._look)

    def answered(self, what: int, *, well: bool = True) -> None:
        """Record a reply as progress; its duration extends the limit if it went ``well``."""
        if self._owed.pop(what, None) is None:
            return
        now = self._loop.time()
        if well and now - self._progress > self._slowest:
            self._slowest = now - self._progress
        self._progress = self._answered = now

    def progress(self) -> None:
        """Record progress of another kind: the worker decodes, under a timeout of its own."""
        now = self._loop.time()
        if now - self._answered <= self._decode_patience * sum(self._owed.values()):
            self._progress = now

    def stop(self) -> None:
        """Stop watching."""
        self._owed.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        """Check, or reschedule: moving the timer with every reply would cost more."""
        self._timer = None
        if not self._owed:
            return
        left = self._progress + self.limit - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        else:
            self._hung()
