"""Notices a worker that hangs.

One timer a worker, not one a request: a worker does one thing at a time, so it hangs when it owes
something and shows no progress, however many requests wait for it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Watchdog:
    """Calls ``hung()`` once ``patience`` seconds pass without progress while something is owed."""

    def __init__(self, patience: float, hung: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._patience = patience
        self._hung = hung
        self._owed: set[int] = set()
        self._progress = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def expect(self, what: int) -> None:
        """Note that the worker owes an answer."""
        if not self._owed:
            self._progress = self._loop.time()
        self._owed.add(what)
        if self._timer is None:
            self._timer = self._loop.call_later(self._patience, self._look)

    def answered(self, what: int) -> None:
        """Note an answer: the worker makes progress."""
        self._owed.discard(what)
        self._progress = self._loop.time()

    def stop(self) -> None:
        """Watch no more."""
        self._owed.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        """Judge, or look again later: the timer is not moved with every answer, it costs more."""
        self._timer = None
        if not self._owed:
            return
        left = self._progress + self._patience - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        else:
            self._hung()
