"""The pulls in progress: at most one per model, a few running, the others queued."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from mataserver.errors import Conflict, Unavailable
from mataserver.sources.messages import Waiting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from mataserver.sources.messages import Step

RUNNING = 2
"""Concurrent pulls: more would only compete for network, disk and CPU."""

WAITING = 16
"""Maximum number of queued pulls; further ones are rejected."""

_RETRY_SECONDS = 60.0
log = logging.getLogger("mataserver.pulls")


class Turns:
    """A semaphore with a bounded queue: at most ``running`` holders and ``waiting`` waiters."""

    def __init__(self, running: int = RUNNING, waiting: int = WAITING) -> None:
        self._free = running
        self._bound = waiting
        self._queue: list[_Waiter] = []

    @contextlib.asynccontextmanager
    async def taken(self, tell: Callable[[int], None]) -> AsyncIterator[None]:
        """Hold a slot; while queued, ``tell`` receives each new position, 1 for the next.

        Raises ``Unavailable`` if the queue is full.
        """
        await self._wait(tell)
        try:
            yield
        finally:
            self._give_back()

    async def _wait(self, tell: Callable[[int], None]) -> None:
        if self._free:
            self._free -= 1
            return
        if len(self._waiting()) >= self._bound:
            raise Unavailable(
                f"{len(self._queue)} pulls wait for their turn already", retry_after=_RETRY_SECONDS
            )
        mine = _Waiter(tell)
        self._queue.append(mine)
        self._tell_all()
        try:
            await mine.turn
        except asyncio.CancelledError:
            if not mine.turn.cancelled():  # the slot was granted concurrently
                self._give_back()
            self._tell_all()
            raise

    def _give_back(self) -> None:
        waiting = self._waiting()
        if not waiting:
            self._free += 1
            return
        waiting[0].turn.set_result(None)
        self._tell_all()

    def _tell_all(self) -> None:
        for place, waiter in enumerate(self._waiting(), 1):
            waiter.stands_at(place)

    def _waiting(self) -> list[_Waiter]:
        """Return the waiters, without those granted or cancelled."""
        self._queue = [each for each in self._queue if not each.turn.done()]
        return self._queue


class _Waiter:
    """One waiter for a slot."""

    def __init__(self, tell: Callable[[int], None]) -> None:
        self.turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tell = tell
        self._place = 0

    def stands_at(self, place: int) -> None:
        if place != self._place:
            self._place = place
            self._tell(place)


class Pull:
    """The pull of one model: ``place`` is its position in the queue, 0 while not queued."""

    def __init__(self, name: str, turns: Turns, on_step: Callable[[Step], None] | None) -> None:
        self.place = 0
        self._name = name
        self._turns = turns
        self._on_step = on_step

    def tell(self, step: Step) -> None:
        """Report progress."""
        if self._on_step is not None:
            self._on_step(step)

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a slot and hold it. Raises ``Unavailable`` if the queue is full."""
        async with self._turns.taken(self._wait):
            self.place = 0
            yield

    def _wait(self, place: int) -> None:
        self.place = place
        log.info("the pull of %s waits for its turn, place %d", self._name, place)
        self.tell(Waiting(place))


class Pulls:
    """The pulls of one process."""

    def __init__(self, turns: Turns | None = None) -> None:
        self._turns = turns or Turns()
        self._under_way: dict[str, Pull] = {}

    @contextlib.contextmanager
    def begun(self, name: str, on_step: Callable[[Step], None] | None) -> Iterator[Pull]:
        """Register a pull while it runs. Raises ``Conflict`` while the same model is pulled."""
        other = self._under_way.get(name)
        if other is not None:
            waits = f": it waits for its turn, place {other.place}" if other.place else ""
            raise Conflict(f"A pull of {name} is already in progress{waits}")
        self._under_way[name] = Pull(name, self._turns, on_step)
        try:
            yield self._under_way[name]
        finally:
            del self._under_way[name]
