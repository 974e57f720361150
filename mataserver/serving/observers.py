"""Services' ``on_result`` hooks: notified of each answer without delaying it."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from mataserver.logs import RateLimitedLog
from mataserver.plugin_ends import ends_as_errors

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mataserver.contract.handles import ResultEvent
    from mataserver.metrics import Metrics
    from mataserver.tasks import Tasks

    OnResult = Callable[[ResultEvent], Awaitable[None]]

QUEUE_LENGTH = 32
"""Queue length per service, each event with a picture; a new event displaces the oldest."""
LOG_INTERVAL = 60.0
"""Seconds between two log lines about the same failure of a service."""

log = logging.getLogger("mataserver.plugins")


class Observers:
    """The services that subscribe to answers. ``infer`` includes those of plain inferences.

    Each has a short queue and a task that drains it: a slow service misses events, and delays
    neither answers nor other services.
    """

    def __init__(self, metrics: Metrics, *, infer: bool) -> None:
        self.infer = infer
        self._metrics = metrics
        self._queues: list[_Queue] = []

    def __bool__(self) -> bool:
        """Whether there are subscribers."""
        return bool(self._queues)

    def add(self, name: str, on_result: OnResult, tasks: Tasks) -> None:
        """Subscribe a service to all further answers, in a task of its own."""
        queue = _Queue(name)
        self._queues.append(queue)
        tasks.spawn(queue.deliver(on_result), f"on_result of {name}")

    def publish(self, event: ResultEvent) -> None:
        """Enqueue an answer for every service; never blocks."""
        for queue in self._queues:
            if not queue.put(event):
                self._metrics.unobserved.labels(queue.name).inc()


class _Queue:
    """The pending events of one service."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._events: asyncio.Queue[ResultEvent] = asyncio.Queue(QUEUE_LENGTH)
        # A failing hook fails on every frame: ten lines a second would flood the log.
        self._failures = RateLimitedLog(log, LOG_INTERVAL)

    def put(self, event: ResultEvent) -> bool:
        """Add an event; return False if it displaced another."""
        displaced = self._events.full()
        if displaced:
            self._events.get_nowait()
        self._events.put_nowait(event)
        return not displaced

    async def deliver(self, on_result: OnResult) -> None:
        """Deliver events to the service forever; log its exceptions, once a minute."""
        while True:
            try:
                with ends_as_errors():
                    await on_result(await self._events.get())  # held no longer than it runs
            except Exception as error:  # noqa: BLE001 - a plugin may raise anything
                kind = type(error).__name__
                line = f"on_result() of the plugin {self.name} failed: {kind}: {error}"
                self._failures.warn(kind, line, error)
