"""Pending requests to a broker, and the seats it has placed."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from mataserver.engines.placing import Broken, Nodes, NoNode, Placed, SeatEnded
from mataserver.engines.worker_errors import WorkerDied
from mataserver.errors import MataError, OutOfMemory

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver.engines.placing import Node, Told

log = logging.getLogger("mataserver.ray")


class Asked:
    """Pending placements and live seats, both by token; ``seats`` maps each to its end callback."""

    def __init__(self) -> None:
        self.placing: dict[int, asyncio.Future[Placed]] = {}
        self.seats: dict[int, Callable[[str], None]] = {}
        self._listing: list[asyncio.Future[list[Node]]] = []

    def place(self, token: int, ended: Callable[[str], None]) -> asyncio.Future[Placed]:
        """Register a seat and return its pending placement; ``ended(how)`` is called at its end."""
        future: asyncio.Future[Placed] = asyncio.get_running_loop().create_future()
        self.placing[token] = future
        self.seats[token] = ended
        return future

    def nodes(self) -> asyncio.Future[list[Node]]:
        """Return a future of the node list."""
        future: asyncio.Future[list[Node]] = asyncio.get_running_loop().create_future()
        self._listing.append(future)
        return future

    def on_message(self, message: Told) -> None:
        """Dispatch a message of the broker."""
        if isinstance(message, Placed):
            self._settle(message.token, message)
        elif isinstance(message, NoNode):
            self._settle(message.token, OutOfMemory("No node of the Ray cluster has room"))
        elif isinstance(message, Broken):
            log.error("a worker could not be started on the cluster: %s", message.how)
            self._settle(message.token, WorkerDied("The model's worker died as it was started"))
        elif isinstance(message, SeatEnded):
            ended = self.seats.pop(message.token, None)
            if ended is not None:
                ended(message.how)
        elif isinstance(message, Nodes):
            listing, self._listing = self._listing, []
            for future in listing:
                if not future.done():
                    future.set_result(message.nodes)

    def _settle(self, token: int, found: Placed | MataError) -> None:
        future = self.placing.get(token)
        if future is None or future.done():
            return
        if isinstance(found, MataError):
            future.set_exception(found)
        else:
            future.set_result(found)

    def end(self, error: MataError) -> None:
        """Fail everything pending with ``error``, and report every seat as ended."""
        waiting: list[asyncio.Future[Any]] = [*self.placing.values(), *self._listing]
        self._listing, seats = [], [*self.seats.values()]
        for each in waiting:
            fail(each, error)
        self.seats.clear()
        for ended in seats:
            ended("the broker ended")


def fail(future: asyncio.Future[Any], error: MataError) -> None:
    """Fail a pending future, and mark its error as retrieved: it may have no awaiter."""
    if not future.done():
        future.set_exception(error)
        future.exception()
