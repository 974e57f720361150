"""The deadline of a shutdown, which limits every wait."""

from __future__ import annotations

import _thread
import asyncio
import contextlib
import logging
import os
import signal
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable

DEFAULT_TIMEOUT = 30.0
"""Timeout in seconds for a clean-up without a shutdown request: after a failed start."""

LEAST_TIME = 0.05
"""Seconds that each clean-up has, also after the deadline."""

_KERNEL_DELAY = 0.25
"""Seconds that the kernel waits longer, so that the thread can say why the process ends."""

log = logging.getLogger("mataserver")


async def finish_by(deadline: float | None, what: str, cleanup: Awaitable[object]) -> None:
    """Wait for a clean-up until ``deadline``, on the loop's clock; log its failure or timeout.

    Where an earlier clean-up took all of the time, the others, which mostly end at once, still
    have a moment. A task that suppresses its cancellation is abandoned: it must not block the rest.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(cleanup)
    left = DEFAULT_TIMEOUT if deadline is None else max(LEAST_TIME, deadline - loop.time())
    await asyncio.wait([task], timeout=left)
    if not task.done():
        task.cancel()
        log.error("%s did not end in time", what)
    elif not task.cancelled() and task.exception() is not None:
        log.error("%s failed while it ended", what, exc_info=task.exception())


def exit_after(seconds: float) -> None:
    """Exit the process after ``seconds``, whatever its loop and threads are doing.

    A thread says why. Without memory it may not start, or die at once, which ``threading`` would
    wait for without end: so it is started without, and the kernel ends the process if it did not.
    """

    def end() -> None:
        time.sleep(seconds)
        try:
            log.error("the shutdown did not end in time")
        finally:
            os._exit(1)

    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds + _KERNEL_DELAY)
    with contextlib.suppress(RuntimeError, MemoryError):
        _thread.start_new_thread(end, ())
