"""Detects a worker that hangs.

One timer per worker instead of per request: a worker processes one thing at a time, so it hangs if
requests are pending and it makes no progress, however many there are.

The timeout derives from the server's configuration, the backend's declaration, and experience: a
worker whose answer took nearly the limit may take longer over the next, larger one. It is bounded,
so that a hung worker is always detected.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mataserver.contract.backend import MAX_STEP_TIMEOUT

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

MARGIN = 2.0
"""A step may take this many times as long as the slowest successful one."""
GROWTH = 4.0
"""Maximum factor by which experience extends the initial limit."""
MAX_CHECK_INTERVAL = 1.0


def check_interval(limit: float) -> float:
    """Return the interval in seconds at which a decode timeout of ``limit`` seconds is checked."""
    return min(MAX_CHECK_INTERVAL, limit / 4)


class Watchdog:
    """Calls ``on_hang()`` after ``limit`` seconds without progress while requests are pending.

    The limit starts at ``infer_timeout``. A worker's claim to be decoding extends it by at most
    ``decode_timeout`` per pending image: the claim may be false.
    """

    def __init__(
        self, infer_timeout: float, on_hang: Callable[[], None], decode_timeout: float = 0.0
    ) -> None:
        import asyncio  # here, as the worker imports ``check_interval`` and has no loop

        self._loop = asyncio.get_running_loop()
        self._infer_timeout = infer_timeout
        self._on_hang = on_hang
        self._decode_timeout = decode_timeout
        self._slowest = 0.0
        self._pending: dict[int, int] = {}
        self._last_progress = 0.0
        self._last_answer = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def limit(self) -> float:
        """The current timeout of a step in seconds."""
        learned = min(MARGIN * self._slowest, GROWTH * self._infer_timeout)
        return max(self._infer_timeout, learned)

    def raise_limit(self, seconds: float) -> None:
        """Raise the limit to what the backend declares, up to ``MAX_STEP_TIMEOUT``."""
        self._infer_timeout = max(self._infer_timeout, min(seconds, MAX_STEP_TIMEOUT))

    def add_pending(self, request: int, images: int = 1) -> None:
        """Register a pending request about ``images`` images."""
        if not self._pending:
            self._last_progress = self._last_answer = self._loop.time()
        self._pending[request] = images
        if self._timer is None:
            self._timer = self._loop.call_later(self.limit, self._check)

    def record_answer(self, request: int, *, succeeded: bool = True) -> None:
        """Record a reply as progress; its duration extends the limit if it went ``succeeded``."""
        if self._pending.pop(request, None) is None:
            return
        now = self._loop.time()
        if succeeded and now - self._last_progress > self._slowest:
            self._slowest = now - self._last_progress
        self._last_progress = self._last_answer = now

    def record_progress(self) -> None:
        """Record progress of another kind: the worker decodes, which has its own timeout."""
        now = self._loop.time()
        if now - self._last_answer <= self._decode_timeout * sum(self._pending.values()):
            self._last_progress = now

    def stop(self) -> None:
        """Stop watching."""
        self._pending.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self) -> None:
        """Check, or reschedule: moving the timer with every reply would cost more."""
        self._timer = None
        if not self._pending:
            return
        left = self._last_progress + self.limit - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._check)
        else:
            self._on_hang()
