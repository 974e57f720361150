"""Workers that died are started anew, beside those that live."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from mataserver.errors import MataError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0
"""Seconds before one that died by itself is started anew: longer with each time."""

log = logging.getLogger("mataserver.replicas")


class Respawns:
    """The replacements that are under way. ``begin(index)`` starts one within ``load_timeout`` s.

    ``pauses`` are the seconds that each waits the next time that it dies by itself.
    """

    def __init__(self, begin: Callable[[int], Awaitable[None]], load_timeout: float) -> None:
        self.pauses: dict[int, float] = {}
        self._begin = begin
        self._load_timeout = load_timeout
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def replace(self, index: int, *, at_once: bool) -> None:
        """Begin to start one anew, until it is there."""
        task = asyncio.get_running_loop().create_task(self._replace(index, at_once=at_once))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def cancel(self) -> list[asyncio.Task[None]]:
        """Replace nobody any more; return the tasks that end by it."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        return list(self._tasks)

    async def _replace(self, index: int, *, at_once: bool) -> None:
        """Start one anew; the more often it dies by itself, the longer it waits."""
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
