"""The workers of one model by index: which are alive, and the load of each."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import TYPE_CHECKING

from mataserver.engines.worker_errors import NotDispatchedError
from mataserver.plugin_ends import ends_logged

if TYPE_CHECKING:
    from mataserver.engines.work import Worker

log = logging.getLogger("mataserver.pool")


class ReplicaTable:
    """Maps each index to its worker, if any, and to its load.

    An index is ``wanted`` until it is retired, also while its worker is being started or replaced.
    """

    def __init__(self, count: int) -> None:
        self.workers: list[Worker | None] = [None] * count
        self.load = [0] * count
        self.wanted = set(range(count))
        self.retiring: dict[int, asyncio.Event] = {}
        """For each index being retired: an event that is set once its load is zero."""
        self.sessions: dict[str, int] = {}
        """Maps each session to the index of the worker that holds its state."""
        self.unclosed: set[Worker] = set()
        """Workers that are being closed, or could not be: they may still run."""
        self.suspects: set[int] = set()
        """Indices of workers that may be lost."""

    @property
    def existing(self) -> list[Worker]:
        """All existing workers, including those being retired."""
        return [worker for worker in self.workers if worker is not None]

    @property
    def running(self) -> set[Worker]:
        """All workers that may be running, also those that could not be closed."""
        return {*self.existing, *self.unclosed}

    @property
    def width(self) -> int:
        """The number of wanted indices that have a worker."""
        return sum(self.workers[index] is not None for index in self.wanted)

    @property
    def is_suspect(self) -> bool:
        """Whether any worker is alive, and every live one is suspect."""
        alive_indices = {*self.alive_indices()}
        return bool(alive_indices) and alive_indices <= self.suspects

    def alive_indices(self) -> list[int]:
        """Return the indices that can answer and are not being retired."""
        return [i for i in sorted(self.wanted) if self.is_alive(i)]

    def is_alive(self, index: int) -> bool:
        """Whether a worker can answer."""
        worker = self.workers[index]
        return worker is not None and worker.is_alive

    def worker(self, index: int) -> Worker:
        """Return a worker that can answer. Raises ``NotDispatchedError``."""
        worker = self.workers[index]
        if worker is None or not worker.is_alive:
            raise NotDispatchedError
        return worker

    def least_loaded(self) -> int:
        """Return the least loaded index. Raises ``NotDispatchedError`` if none can answer."""
        alive_indices = self.alive_indices()
        if not alive_indices:
            raise NotDispatchedError
        if self.suspects:  # a suspect worker is a last resort, whatever its load
            alive_indices = [i for i in alive_indices if i not in self.suspects] or alive_indices
        return min(alive_indices, key=lambda i: self.load[i])

    def replica_of(self, session: str) -> int:
        """Return a session's index; a new session gets the one with the fewest sessions."""
        replica = self.sessions.get(session)
        if replica is None:
            counts = Counter(self.sessions.values())
            replica = min(self.alive_indices(), key=lambda i: counts[i], default=0)
            self.sessions[session] = replica
        return replica

    def add(self) -> int:
        """Add an index and return it."""
        used = self.wanted | self.retiring.keys()
        index = next(i for i in range(len(self.workers) + 1) if i not in used)
        if index == len(self.workers):
            self.workers.append(None)
            self.load.append(0)
        self.wanted.add(index)
        return index

    def assign(self, index: int, worker: Worker) -> None:
        """Assign a new worker to an index, and reset its load."""
        self.workers[index], self.load[index] = worker, 0

    async def retire(self, index: int) -> None:
        """Retire a worker: no new work, wait for its pending work, then close it."""
        worker = self.worker(index)
        self.wanted.discard(index)
        idle = self.retiring[index] = asyncio.Event()
        while self.load[index] and worker.is_alive:
            await idle.wait()
        await self._close(worker)
        # Only now, and not if cancelled: a close of all workers must still see one that hangs.
        self.workers[index] = None
        self.suspects.discard(index)
        del self.retiring[index]

    def decrement_load(self, index: int, worker: Worker) -> None:
        """Decrement a worker's load, unless it has been replaced since."""
        if self.workers[index] is worker:
            self.load[index] -= 1
            if index in self.retiring and not self.load[index]:
                self.retiring[index].set()

    async def close(self) -> None:
        """Close every worker, all at once."""
        await asyncio.gather(*map(self._close, self.running), return_exceptions=True)

    async def _close(self, worker: Worker) -> None:
        """Close a worker, whose engine may be a plugin's; log how that failed, and keep it."""
        self.unclosed.add(worker)
        with ends_logged(log, "a worker could not be closed"):
            await worker.close()
            self.unclosed.discard(worker)
