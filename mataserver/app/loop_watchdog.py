"""Watchdog of the event loop: logs the code that blocks it, with file and line, while it does.

A handler that blocks without ``await``, on a disk, a database or a long computation, delays
all other requests, and leaves no trace afterwards.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

STALL_SECONDS = 2.0
"""Seconds without a heartbeat of the event loop after which it counts as blocked."""
_LOOP_MODULES = frozenset({"asyncio.base_events", "asyncio.events", "asyncio.runners", "selectors"})
"""Modules of the loop's own frames; the frames below are the code that it runs."""

log = logging.getLogger("mataserver.server")


class EventLoopStalled(Exception):
    """The event loop is blocked; the traceback ends where."""


async def watch(after: float = STALL_SECONDS) -> None:
    """Let a thread log what blocks this event loop, once for each stall, until cancelled."""
    monitor = _LoopMonitor(after)
    threading.Thread(target=monitor.run, name="watches the event loop", daemon=True).start()
    try:
        while True:
            monitor.last_beat = time.monotonic()
            await asyncio.sleep(after / 2)
    finally:
        monitor.stopped.set()


class _LoopMonitor:
    """Monitors the event loop of the thread that creates it."""

    def __init__(self, after: float) -> None:
        self.last_beat = time.monotonic()
        self.stopped = threading.Event()
        self._after = after
        self._thread = threading.get_ident()

    def run(self) -> None:
        """Check for heartbeats until stopped."""
        reported = 0.0
        while not self.stopped.wait(self._after / 2):
            last_beat = self.last_beat
            stalled_seconds = time.monotonic() - last_beat
            if stalled_seconds < self._after or last_beat == reported:
                continue
            # Else the machine is overloaded, and not the loop blocked.
            if self._log_stall(stalled_seconds):
                reported = last_beat

    def _log_stall(self, stalled_seconds: float) -> bool:
        """Log what the loop runs now; return False if it runs nothing.

        A separate function, because frames keep their variables alive, such as bodies and images,
        which must not be retained until the next check.
        """
        trace = _running_stack(sys._current_frames().get(self._thread))  # noqa: SLF001 - documented
        if trace is None:
            return False
        place = traceback.extract_tb(trace)[-1]
        log.warning(
            "the event loop is held up for %.0f s, and every request with it: by %s, "
            "line %d, in %s; ctx.run_blocking takes what waits or computes for long",
            stalled_seconds,
            place.filename,
            place.lineno or 0,
            place.name,
            exc_info=EventLoopStalled("it is here now").with_traceback(trace),
        )
        return True


def _running_stack(frame: FrameType | None) -> TracebackType | None:
    """Return the traceback from the loop's callback to a frame; None if the loop runs nothing."""
    trace = None
    while frame is not None and frame.f_globals.get("__name__") not in _LOOP_MODULES:
        # Generated code may have no line number, which a traceback requires.
        trace = TracebackType(trace, frame, frame.f_lasti, frame.f_lineno or 0)
        frame = frame.f_back
    return trace if frame is not None else None
