"""Pending requests to a broker, and the runners it has placed."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from mataserver import MataError, OutOfMemory, WorkerDied
from mataserver_ray.broker_messages import (
    NodeList,
    NoNodeAvailable,
    RunnerEnded,
    RunnerPlaced,
    RunnerStartFailed,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver_ray.broker_messages import BrokerEvent, Node

log = logging.getLogger("mataserver.ray")


class RunnerStartError(WorkerDied):
    """A runner ended before anything of its model or program ran: it can be tried elsewhere."""


class PendingPlacements:
    """Pending placements and live runners, both by token.

    ``end_callbacks`` maps each live runner to the callback for its end.
    """

    def __init__(self) -> None:
        self.placing: dict[int, asyncio.Future[RunnerPlaced]] = {}
        self.end_callbacks: dict[int, Callable[[str], None]] = {}
        self._node_lists: list[asyncio.Future[list[Node]]] = []

    def place(self, token: int, on_end: Callable[[str], None]) -> asyncio.Future[RunnerPlaced]:
        """Register a runner; return its pending placement. Its end calls ``on_end(reason)``."""
        future: asyncio.Future[RunnerPlaced] = asyncio.get_running_loop().create_future()
        self.placing[token] = future
        self.end_callbacks[token] = on_end
        return future

    def nodes(self) -> asyncio.Future[list[Node]]:
        """Return a future of the node list."""
        future: asyncio.Future[list[Node]] = asyncio.get_running_loop().create_future()
        self._node_lists.append(future)
        return future

    def on_message(self, message: BrokerEvent) -> None:
        """Dispatch a message of the broker."""
        if isinstance(message, RunnerPlaced):
            self._resolve(message.token, message)
        elif isinstance(message, NoNodeAvailable):
            self._resolve(message.token, OutOfMemory("No node of the Ray cluster has room"))
        elif isinstance(message, RunnerStartFailed):
            log.error("a process could not be started on the cluster: %s", message.reason)
            detail = "A process on the Ray cluster ended as it was started"
            self._resolve(message.token, RunnerStartError(detail))
        elif isinstance(message, RunnerEnded):
            on_end = self.end_callbacks.pop(message.token, None)
            if on_end is not None:
                on_end(message.reason)
        elif isinstance(message, NodeList):
            listing, self._node_lists = self._node_lists, []
            for future in listing:
                if not future.done():
                    future.set_result(message.nodes)

    def _resolve(self, token: int, found: RunnerPlaced | MataError) -> None:
        future = self.placing.get(token)
        if future is None or future.done():
            return
        if isinstance(found, MataError):
            future.set_exception(found)
        else:
            future.set_result(found)

    def fail_pending(self, error: MataError) -> None:
        """Fail every request with ``error``; runners go on."""
        waiting: list[asyncio.Future[Any]] = [*self.placing.values(), *self._node_lists]
        self._node_lists = []
        for each in waiting:
            fail_future(each, error)

    def fail_all(self, error: MataError) -> None:
        """Fail every request with ``error``, and report every runner as ended."""
        self.fail_pending(error)
        end_callbacks = [*self.end_callbacks.values()]
        self.end_callbacks.clear()
        for on_end in end_callbacks:
            on_end("the broker ended")


def fail_future(future: asyncio.Future[Any], error: MataError) -> None:
    """Fail a pending future, and mark its error as retrieved: it may have no awaiter."""
    if not future.done():
        future.set_exception(error)
        future.exception()
