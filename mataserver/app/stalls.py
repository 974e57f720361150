"""What holds up the event loop is told while it does: whose code it is, by file and line.

A plugin's handler that waits without ``await``, for a disk, a database or a long computation, keeps
everybody else's requests waiting, and nothing of it is to be seen afterwards.
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

AFTER = 2.0
"""Seconds without a sign of the event loop after which it counts as held up."""
_RUNNERS = frozenset({"asyncio.base_events", "asyncio.events", "asyncio.runners", "selectors"})
"""Modules whose frames are the loop's own: below them is what it runs."""

log = logging.getLogger("mataserver.server")


class HeldUp(Exception):
    """Says where the event loop was when it gave no sign: its traceback leads there."""


async def watch(after: float = AFTER) -> None:
    """Have a thread tell what holds up this event loop, once for each time, until cancelled."""
    pulse = _Pulse(after)
    threading.Thread(target=pulse.look, name="watches the event loop", daemon=True).start()
    try:
        while True:
            pulse.last = time.monotonic()
            await asyncio.sleep(after / 2)
    finally:
        pulse.ended.set()


class _Pulse:
    """The last sign of the event loop of the thread that makes this."""

    def __init__(self, after: float) -> None:
        self.last = time.monotonic()
        self.ended = threading.Event()
        self._after = after
        self._thread = threading.get_ident()

    def look(self) -> None:
        """Look for signs until it ends."""
        told = 0.0
        while not self.ended.wait(self._after / 2):
            last = self.last
            silent = time.monotonic() - last
            if silent < self._after or last == told:
                continue
            if self._tell(silent):  # else it is the machine that has no time for it
                told = last

    def _tell(self, silent: float) -> bool:
        """Tell what the loop runs now, if it runs anything; return whether it does.

        A function of its own: frames keep their variables, such as bodies and images, and nothing
        of them is to stay until the next time.
        """
        trace = _what_runs(sys._current_frames().get(self._thread))  # noqa: SLF001 - documented
        if trace is None:
            return False
        place = traceback.extract_tb(trace)[-1]
        log.warning(
            "the event loop is held up for %.0f s, and every request with it: by %s, "
            "line %d, in %s; ctx.run_blocking takes what waits or computes for long",
            silent,
            place.filename,
            place.lineno or 0,
            place.name,
            exc_info=HeldUp("it is here now").with_traceback(trace),
        )
        return True


def _what_runs(frame: FrameType | None) -> TracebackType | None:
    """Return what leads to a frame from where the loop ran it; None where it runs nothing."""
    trace = None
    while frame is not None and frame.f_globals.get("__name__") not in _RUNNERS:
        # What a compiler made without a line has None, which a traceback does not take.
        trace = TracebackType(trace, frame, frame.f_lasti, frame.f_lineno or 0)
        frame = frame.f_back
    return trace if frame is not None else None
