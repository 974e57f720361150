"""Notices a worker that hangs.

One timer a worker, not one a request: a worker does one thing at a time, so it hangs when it owes
something and shows no progress, however many requests wait for it.

How long that takes is the server's to say, the backend's, and experience's: a worker that has
answered after nearly its time may take longer over the next, larger question. All of it is bounded,
so that one that hangs is always noticed.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mataserver.contract.backend import LONGEST_STEP

if TYPE_CHECKING:
    from collections.abc import Callable

MARGIN = 2.0
"""A step may take so many times the slowest one that was answered well."""
GROWTH = 4.0
"""By what experience stretches the first limit at most."""
LONGEST_PAUSE = 1.0


def pause(limit: float) -> float:
    """Return the seconds between two looks at decoders that may take ``limit``."""
    return min(LONGEST_PAUSE, limit / 4)


class Watchdog:
    """Calls ``hung()`` once ``limit`` seconds pass without progress while something is owed.

    The limit is ``patience`` at first. What a worker says of its decoding it is believed for
    ``decode_patience`` an image that it owes: it may be somebody's who lies.
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
        """The seconds that a step may take now."""
        learned = min(MARGIN * self._slowest, GROWTH * self._patience)
        return max(self._patience, learned)

    def allow(self, seconds: float) -> None:
        """Let a step take what the backend states, if that is more; up to ``LONGEST_STEP``."""
        self._patience = max(self._patience, min(seconds, LONGEST_STEP))

    def expect(self, what: int, images: int = 1) -> None:
        """Note that the worker owes an answer about so many images."""
        if not self._owed:
            self._progress = self._answered = self._loop.time()
        self._owed[what] = images
        if self._timer is None:
            self._timer = self._loop.call_later(self.limit, self._look)

    def answered(self, what: int, *, well: bool = True) -> None:
        """Note an answer: the worker makes progress. Of one that went ``well`` it learns."""
        if self._owed.pop(what, None) is None:
            return
        now = self._loop.time()
        if well and now - self._progress > self._slowest:
            self._slowest = now - self._progress
        self._progress = self._answered = now

    def progress(self) -> None:
        """Note that the worker is at something else that is watched for itself: it decodes."""
        now = self._loop.time()
        if now - self._answered <= self._decode_patience * sum(self._owed.values()):
            self._progress = now

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
        left = self._progress + self.limit - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        else:
            self._hung()
