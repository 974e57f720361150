"""``on_result`` of services: who is told of each answer, beside it and never in its way."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING

from mataserver.logs import Repeats

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mataserver.contract.handles import ResultEvent
    from mataserver.metrics import Metrics
    from mataserver.tasks import Tasks

    OnResult = Callable[[ResultEvent], Awaitable[None]]

WAITING = 32
"""Events, each with a picture, that wait for a service; a newer one displaces the oldest."""
REPEATED = 60.0
"""Seconds between two lines of a service that fails in one way."""

log = logging.getLogger("mataserver.plugins")


class Observers:
    """Every service that wants to be told of answers. ``infer`` says whether of all, too.

    Each has a short queue of its own and one task that empties it: one that is slow misses events,
    and holds up neither an answer nor another service.
    """

    def __init__(self, metrics: Metrics, *, infer: bool) -> None:
        self.infer = infer
        self._metrics = metrics
        self._queues: list[_Queue] = []

    def __bool__(self) -> bool:
        """Whether anybody wants to be told."""
        return bool(self._queues)

    def add(self, name: str, on_result: OnResult, tasks: Tasks) -> None:
        """Tell a service of every answer from now on, in a task of its own."""
        queue = _Queue(name)
        self._queues.append(queue)
        tasks.spawn(queue.empty(on_result), f"on_result of {name}")

    def tell(self, event: ResultEvent) -> None:
        """Have every service told of an answer; never waits."""
        for queue in self._queues:
            if not queue.put(event):
                self._metrics.unobserved.labels(queue.name).inc()


class _Queue:
    """What one service is yet to be told."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._events: deque[ResultEvent] = deque(maxlen=WAITING)
        self._came = asyncio.Event()
        # One that fails fails for every frame: a camera's ten a second would bury the log.
        self._repeats = Repeats(log, REPEATED)

    def put(self, event: ResultEvent) -> bool:
        """Add an event; whether none had to go for it."""
        room = len(self._events) < WAITING
        self._events.append(event)
        self._came.set()
        return room

    async def empty(self, on_result: OnResult) -> None:
        """Tell the service of each event, for ever; what it raises is logged, once a minute."""
        while True:
            while not self._events:
                self._came.clear()
                await self._came.wait()
            try:
                await on_result(self._events.popleft())
            except Exception as error:  # noqa: BLE001 - a plugin may raise anything
                kind = type(error).__name__
                line = f"on_result() of the plugin {self.name} failed: {kind}: {error}"
                self._repeats.note(kind, line, error)
