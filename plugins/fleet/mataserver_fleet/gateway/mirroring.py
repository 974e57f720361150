"""Copies of requests for the version that a route mirrors to; nobody awaits their answers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

MAX_MIRRORED = 16
"""Mirrored copies in flight at a time; further requests are not mirrored."""


class Mirror:
    """The copies in flight, by HTTP and by gRPC."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, copy: Callable[[], Coroutine[None, None, None]]) -> None:
        """Begin to send a copy, unless there are too many."""
        if len(self._tasks) < MAX_MIRRORED:
            task = asyncio.ensure_future(copy())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Cancel the copies in flight."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
