"""The workers of one model by their numbers: which live, and how much each has to do."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from mataserver.engines.accidents import WorkerDied

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from mataserver.engines.work import Worker


class Roster:
    """Of every number the worker, if there is one, and what it has to do.

    A number is ``wanted`` until it is given up, also while its worker is started or replaced.
    """

    def __init__(self, count: int) -> None:
        self.workers: list[Worker | None] = [None] * count
        self.load = [0] * count
        self.wanted = set(range(count))
        self.leaving: dict[int, asyncio.Event] = {}
        """Of those that are given up: set once they have nothing to do."""
        self.suspects: set[int] = set()
        """Those that may be lost."""

    @property
    def present(self) -> list[Worker]:
        """The workers that there are, with those that are given up and not closed yet."""
        return [worker for worker in self.workers if worker is not None]

    @property
    def width(self) -> int:
        """How many of those that are wanted are there."""
        return sum(self.workers[index] is not None for index in self.wanted)

    @property
    def is_suspect(self) -> bool:
        """Whether one lives, and each that lives may be lost."""
        living = {*self.living()}
        return bool(living) and living <= self.suspects

    def living(self) -> list[int]:
        """Return those that can answer, and are not given up."""
        return [i for i in sorted(self.wanted) if self.is_alive(i)]

    def is_alive(self, index: int) -> bool:
        """Whether one can answer."""
        worker = self.workers[index]
        return worker is not None and worker.alive

    def worker(self, index: int) -> Worker:
        """Return one that can answer. Raises ``WorkerDied``."""
        worker = self.workers[index]
        if worker is None or not worker.alive:
            raise WorkerDied("The model's worker is gone")
        return worker

    def idlest(self) -> int:
        """Return the one with the least to do. Raises ``WorkerDied`` when none can answer."""
        living = self.living()
        if not living:
            raise WorkerDied("The model's worker is gone")
        if self.suspects:  # one that may be lost is the last choice, however little it has to do
            living = [i for i in living if i not in self.suspects] or living
        return min(living, key=lambda i: self.load[i])

    def add(self) -> int:
        """Want one more; return its number, which nobody has."""
        taken = self.wanted | self.leaving.keys()
        index = next(i for i in range(len(self.workers) + 1) if i not in taken)
        if index == len(self.workers):
            self.workers.append(None)
            self.load.append(0)
        self.wanted.add(index)
        return index

    def put(self, index: int, worker: Worker) -> None:
        """Note the worker that a number has from now on; it has nothing to do yet."""
        self.workers[index], self.load[index] = worker, 0

    async def retire(self, index: int) -> None:
        """Give one up: it gets nothing new, ends what it has and is closed."""
        worker = self.worker(index)
        self.wanted.discard(index)
        quiet = self.leaving[index] = asyncio.Event()
        while self.load[index] and worker.alive:
            await quiet.wait()
        await worker.close()
        # Not before: who closes the whole meanwhile closes this one too.
        self.workers[index] = None
        self.suspects.discard(index)
        del self.leaving[index]

    def less(self, index: int, worker: Worker) -> None:
        """Note that a worker has one thing less to do; what its successor has is not its."""
        if self.workers[index] is worker:
            self.load[index] -= 1
            if index in self.leaving and not self.load[index]:
                self.leaving[index].set()

    async def counted(
        self, index: int, worker: Worker, items: AsyncGenerator[Any]
    ) -> AsyncGenerator[Any]:
        """Yield what a worker yields, which until the end is one thing that it has to do."""
        self.load[index] += 1
        try:
            async with contextlib.aclosing(items):
                async for item in items:
                    yield item
        finally:
            self.less(index, worker)
