"""Restarts dead workers, beside those that are alive."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from mataserver.errors import MataError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0
"""Back-off in seconds after an unexpected exit: the first, doubled each time, and the longest."""

log = logging.getLogger("mataserver.replicas")


class Respawns:
    """The replacements in progress. ``begin(index)`` starts a worker, within ``load_timeout`` s.

    ``pauses`` maps an index to its next back-off in seconds.
    """

    def __init__(self, begin: Callable[[int], Awaitable[None]], load_timeout: float) -> None:
        self.pauses: dict[int, float] = {}
        self._begin = begin
        self._load_timeout = load_timeout
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def replace(self, index: int, *, at_once: bool) -> None:
        """Start a replacement in the background, and retry until it succeeds."""
        task = asyncio.get_running_loop().create_task(self._replace(index, at_once=at_once))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def cancel(self) -> list[asyncio.Task[None]]:
        """Stop replacing; return the tasks that are being cancelled."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        return list(self._tasks)

    async def _replace(self, index: int, *, at_once: bool) -> None:
        """Start a replacement, with exponential back-off."""
        while not self._closed:
            if not at_once:
                pause = self.pauses.get(index, FIRST_PAUSE)
                await asyncio.sleep(pause)
                self.pauses[index] = min(LONGEST_PAUSE, 2 * pause)
            at_once = False
            try:
                async with asyncio.timeout(self._load_timeout):
                    await self._begin(index)
            except MataError as error:
                log.error("a replica cannot be replaced: %s", error.detail)  # noqa: TRY400 - told as it is
            except TimeoutError:
                limit = self._load_timeout
                log.error("a replica cannot be replaced: it did not load within %g s", limit)  # noqa: TRY400 - told as it is
            except Exception:
                log.exception("a replica cannot be replaced")
            else:
                return
