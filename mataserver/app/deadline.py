"""The one deadline of a server's end: nothing is waited for beyond it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable

UNASKED = 30.0
"""Seconds for what has to end though nobody asked the server to stop: its start has failed."""

log = logging.getLogger("mataserver")


async def in_time(deadline: float | None, what: str, ending: Awaitable[object]) -> None:
    """Wait for an end until ``deadline``, on the loop's clock; tell what raised, or did not end.

    What swallows its cancellation is left behind: it would hold up everything else.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(ending)
    left = UNASKED if deadline is None else max(0.0, deadline - loop.time())
    await asyncio.wait([task], timeout=left)
    if not task.done():
        task.cancel()
        log.error("%s did not end in time", what)
    elif not task.cancelled() and task.exception() is not None:
        log.error("%s failed while it ended", what, exc_info=task.exception())


def end_after(seconds: float) -> None:
    """End the process after that time, whatever its loop and its threads are doing then."""

    def end() -> None:
        log.error("the shutdown did not end in time")
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    try:
        timer.start()
    except RuntimeError:  # no thread can be started: the kernel ends us then, without a word
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds)
