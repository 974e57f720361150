"""The pulls in progress: at most one per model, a few running, the others queued."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from mataserver.errors import Conflict, Unavailable
from mataserver.sources.messages import QueuePosition

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from mataserver.sources.messages import Step

RUNNING = 2
"""Concurrent pulls: more would only compete for network, disk and CPU."""

WAITING = 16
"""Maximum number of queued pulls; further ones are rejected."""

_RETRY_SECONDS = 60.0
log = logging.getLogger("mataserver.pulls")


class Pull:
    """The pull of one model: ``position`` is its position in the queue, 0 while not queued."""

    def __init__(self, name: str, on_step: Callable[[Step], None] | None) -> None:
        self.position = 0
        self._name = name
        self._on_step = on_step

    def report(self, step: Step) -> None:
        """Report progress."""
        if self._on_step is not None:
            self._on_step(step)

    def move_up(self, position: int) -> None:
        """Wait at a new position, 1 for the next."""
        self.position = position
        log.info("the pull of %s waits for its turn, place %d", self._name, position)
        self.report(QueuePosition(position))


class Pulls:
    """The pulls of one process: at most ``running`` have a slot, and ``waiting`` wait for one."""

    def __init__(self, running: int = RUNNING, waiting: int = WAITING) -> None:
        self._free = asyncio.Semaphore(running)
        self._bound = waiting
        self._queue: list[Pull] = []
        self._in_progress: dict[str, Pull] = {}

    @contextlib.contextmanager
    def register(self, name: str, on_step: Callable[[Step], None] | None) -> Iterator[Pull]:
        """Register a pull while it runs. Raises ``Conflict`` while the same model is pulled."""
        other = self._in_progress.get(name)
        if other is not None:
            detail = f": it waits for its turn, place {other.position}" if other.position else ""
            raise Conflict(f"A pull of {name} is already in progress{detail}")
        self._in_progress[name] = Pull(name, on_step)
        try:
            yield self._in_progress[name]
        finally:
            del self._in_progress[name]

    @contextlib.asynccontextmanager
    async def slot(self, pull: Pull) -> AsyncIterator[None]:
        """Wait for a slot and hold it; while queued, the pull learns of each new position.

        Raises ``Unavailable`` if the queue is full.
        """
        if self._free.locked():
            with self._queued(pull):
                await self._free.acquire()
        else:
            await self._free.acquire()
        pull.position = 0
        try:
            yield
        finally:
            self._free.release()

    @contextlib.contextmanager
    def _queued(self, pull: Pull) -> Iterator[None]:
        """Stand in the queue until the context ends; those behind then move up."""
        if len(self._queue) >= self._bound:
            raise Unavailable(
                f"{len(self._queue)} pulls wait for their turn already", retry_after=_RETRY_SECONDS
            )
        self._queue.append(pull)
        try:
            pull.move_up(len(self._queue))
            yield
        finally:
            place = self._queue.index(pull)
            del self._queue[place]
            for position, behind in enumerate(self._queue[place:], place + 1):
                behind.move_up(position)
