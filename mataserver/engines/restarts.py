"""Restarts dead workers while the live ones serve."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from mataserver.errors import MataError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

FIRST_BACKOFF, MAX_BACKOFF = 0.5, 60.0
"""Back-off in seconds after an unexpected exit: the first, doubled each time, and the longest."""

log = logging.getLogger("mataserver.replicas")


class Restarts:
    """The replacements in progress. ``start(index)`` starts a worker, within ``load_timeout`` s.

    ``backoffs`` maps an index to its next back-off in seconds.
    """

    def __init__(self, start: Callable[[int], Awaitable[None]], load_timeout: float) -> None:
        self.backoffs: dict[int, float] = {}
        self._start_replica = start
        self._load_timeout = load_timeout
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def restart(self, index: int, *, immediately: bool) -> None:
        """Start a replacement in the background, and retry until it succeeds."""
        task = asyncio.get_running_loop().create_task(self._restart(index, immediately=immediately))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def reset_backoff(self, index: int) -> None:
        """Record that a worker has answered: the next back-off is the first again."""
        self.backoffs[index] = FIRST_BACKOFF

    def cancel(self) -> list[asyncio.Task[None]]:
        """Stop replacing; return the tasks that are being cancelled."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        return list(self._tasks)

    async def _restart(self, index: int, *, immediately: bool) -> None:
        """Start a replacement, with exponential back-off."""
        while not self._closed:
            if not immediately:
                backoff = self.backoffs.get(index, FIRST_BACKOFF)
                await asyncio.sleep(backoff)
                self.backoffs[index] = min(MAX_BACKOFF, 2 * backoff)
            immediately = False
            try:
                async with asyncio.timeout(self._load_timeout):
                    await self._start_replica(index)
            except MataError as error:
                log.error("a replica cannot be replaced: %s", error.detail)  # noqa: TRY400 - no traceback to show
            except TimeoutError:
                limit = self._load_timeout
                log.error("a replica cannot be replaced: it did not load within %g s", limit)  # noqa: TRY400 - no traceback to show
            except Exception:
                log.exception("a replica cannot be replaced")
            else:
                return
