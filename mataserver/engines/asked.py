"""What was asked of a broker and not answered yet, and the seats that it has placed."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from mataserver.engines.accidents import WorkerDied
from mataserver.engines.placing import Broken, Nodes, NoNode, Placed, SeatEnded
from mataserver.errors import MataError, OutOfMemory

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver.engines.placing import Node, Told

log = logging.getLogger("mataserver.ray")


class Asked:
    """The seats and what is ``placing``, by their tokens; how each of ``seats`` ends is told."""

    def __init__(self) -> None:
        self.placing: dict[int, asyncio.Future[Placed]] = {}
        self.seats: dict[int, Callable[[str], None]] = {}
        self._listing: list[asyncio.Future[list[Node]]] = []

    def place(self, token: int, ended: Callable[[str], None]) -> asyncio.Future[Placed]:
        """Return where a seat will be placed; ``ended(how)`` is called when it ends."""
        future: asyncio.Future[Placed] = asyncio.get_running_loop().create_future()
        self.placing[token] = future
        self.seats[token] = ended
        return future

    def nodes(self) -> asyncio.Future[list[Node]]:
        """Return the nodes that will be told."""
        future: asyncio.Future[list[Node]] = asyncio.get_running_loop().create_future()
        self._listing.append(future)
        return future

    def on_message(self, message: Told) -> None:
        """Take what the broker tells."""
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
        """Tell whoever waits ``error``; every seat has ended with its broker."""
        waiting: list[asyncio.Future[Any]] = [*self.placing.values(), *self._listing]
        self._listing, seats = [], [*self.seats.values()]
        for each in waiting:
            fail(each, error)
        self.seats.clear()
        for ended in seats:
            ended("the broker ended")


def fail(future: asyncio.Future[Any], error: MataError) -> None:
    """Answer what still waits with an error; nobody may be waiting."""
    if not future.done():
        future.set_exception(error)
        future.exception()
