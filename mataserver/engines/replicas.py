"""Several workers of one model behind the interface of one.

A batch goes to the least loaded replica. A video session stays with the replica that holds its
state, and so do all calls of services. A replica's death fails its requests in flight; it is
restarted while the others serve. The whole counts as dead only when no replica is left.

The number of replicas can change: a retired one gets no new work, completes what it has, and is
closed. A replica that holds state of a session or of services is never retired.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from mataserver.engines.respawns import FIRST_PAUSE, Respawns
from mataserver.engines.roster import Roster
from mataserver.engines.worker_errors import WorkerDied
from mataserver.errors import MataError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

    from mataserver.engines.work import BatchCallback, Facts, Job, Outcome, Worker
    from mataserver.engines.worker_errors import Death


class Replicas:
    """``count`` workers of one model; ``start(index)`` starts one, within ``load_timeout`` s."""

    facts: Facts

    def __init__(
        self, start: Callable[[int], Awaitable[Worker]], count: int, load_timeout: float = 600.0
    ) -> None:
        self._start = start
        self._roster = Roster(count)
        self._respawns = Respawns(self._begin, load_timeout)
        self._homes: dict[str, int] = {}
        """Maps each session to the replica that holds its state."""
        self._callbacks: list[Callable[[Death], None]] = []
        self._suspect = False
        self._doubters: list[Callable[[bool], None]] = []
        self._closed = False

    async def load(self) -> None:
        """Start every replica. Raises a ``MataError`` if one fails to start."""
        try:
            async with asyncio.TaskGroup() as group:
                for index in sorted(self._roster.wanted):
                    group.create_task(self._begin(index))
        except BaseExceptionGroup as failures:
            await self.close()
            raise failures.exceptions[0] from None
        except BaseException:
            await self.close()
            raise
        if not self.alive:
            await self.close()
            raise WorkerDied("The model's worker died while it was loaded")
        self.facts = self._roster.present[0].facts

    @property
    def alive(self) -> bool:
        """Whether a replica can still answer."""
        return not self._closed and bool(self._roster.living())

    @property
    def width(self) -> int:
        """How many batches can run concurrently."""
        return self._roster.width

    @property
    def count(self) -> int:
        """The number of replicas, including those being started or replaced."""
        return len(self._roster.wanted)

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes that hold the model."""
        return tuple(pid for worker in self._roster.present for pid in worker.pids)

    def on_death(self, callback: Callable[[Death], None]) -> None:
        """Call ``callback(death)`` when the last replica has died."""
        self._callbacks.append(callback)

    def on_suspect(self, callback: Callable[[bool], None]) -> None:
        """Call ``callback(suspect)`` when all live replicas become suspect, or no longer are."""
        self._doubters.append(callback)

    def infer(self, jobs: Sequence[Job], callback: BatchCallback) -> Callable[[], None]:
        """Run a batch on the least loaded replica, or the one with the session's state."""
        session, roster = jobs[0].session, self._roster
        keeps = session is not None and self.facts.stateful
        index = self._home(session) if keeps and session else roster.idlest()
        worker = roster.worker(index)

        def take(answer: list[Outcome] | MataError) -> None:
            roster.less(index, worker)
            if not isinstance(answer, MataError):
                self._respawns.pauses[index] = FIRST_PAUSE
            callback(answer)

        roster.load[index] += 1
        try:
            return worker.infer(jobs, take)
        except MataError:
            roster.less(index, worker)
            raise

    def generate(self, job: Job) -> AsyncGenerator[str | Outcome]:
        """Yield text pieces, then the outcome."""
        index = self._roster.idlest() if job.session is None else self._home(job.session)
        worker = self._roster.worker(index)
        return self._roster.counted(index, worker, worker.generate(job))

    async def close_session(self, session: str) -> None:
        """Discard a session's state."""
        index = self._homes.pop(session, None)
        if index is not None and self._roster.is_alive(index):
            await self._roster.worker(index).close_session(session)

    async def call(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a public method on the first replica, which holds the services' state."""
        return await self._roster.worker(0).call(method, args, kwargs)

    def stream(
        self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> AsyncGenerator[Any]:
        """Yield the items of a public generator method on the first replica."""
        worker = self._roster.worker(0)
        return self._roster.counted(0, worker, worker.stream(method, args, kwargs))

    async def memory(self) -> int:
        """Return the private memory of all replicas in bytes, 0 when unknown."""
        workers = self._roster.workers
        return sum([await worker.memory() for worker in workers if worker is not None])

    async def close(self) -> None:
        """Unload every replica."""
        self._closed = True
        ending = self._respawns.cancel()
        closing = [worker.close() for worker in self._roster.present]
        await asyncio.gather(*ending, *closing, return_exceptions=True)

    async def grow(self) -> None:
        """Start one more replica. Raises a ``MataError`` if that fails."""
        index = self._roster.add()
        try:
            await self._begin(index)
        except BaseException:
            self._roster.wanted.discard(index)
            raise

    async def shrink(self) -> bool:
        """Retire and close the least loaded replica; False if each holds state."""
        kept = {0, *self._homes.values()}
        spare = [i for i in self._roster.living() if i not in kept]
        if not spare:
            return False
        await self._roster.retire(min(reversed(spare), key=lambda i: self._roster.load[i]))
        return True

    def terminate(self, error: MataError) -> None:
        """Kill every replica; pending requests fail with ``error``."""
        self._closed = True
        self._respawns.cancel()
        for worker in self._roster.present:
            worker.terminate(error)

    # one replica

    async def _begin(self, index: int) -> None:
        worker = await self._start(index)
        self._roster.put(index, worker)
        worker.on_death(lambda death: self._died(index, death))
        self._doubt(index, suspect=False)
        worker.on_suspect(lambda suspect: self._doubt(index, suspect=suspect))

    def _doubt(self, index: int, *, suspect: bool) -> None:
        """Record whether a replica may be lost; report when that changes for all of them."""
        suspects = self._roster.suspects
        (suspects.add if suspect else suspects.discard)(index)
        every = self._roster.is_suspect
        if every != self._suspect:
            self._suspect = every
            for callback in self._doubters:
                callback(every)

    def _died(self, index: int, death: Death) -> None:
        roster = self._roster
        if index in roster.leaving:  # it was being retired, so it needs no replacement
            roster.leaving[index].set()
            return
        roster.workers[index] = None
        self._homes = {session: home for session, home in self._homes.items() if home != index}
        if self.alive:
            self._doubt(index, suspect=False)
            self._respawns.replace(index, at_once=not death.is_model_fault)
            return
        self._closed = True
        self._respawns.cancel()
        for callback in self._callbacks:
            callback(death)
        self._doubt(index, suspect=False)

    def _home(self, session: str) -> int:
        """Return a session's replica; a new session gets the one with the fewest sessions."""
        home = self._homes.get(session)
        if home is None:
            counts = [0] * len(self._roster.workers)
            for index in self._homes.values():
                counts[index] += 1
            home = min(self._roster.living(), key=lambda i: counts[i], default=0)
            self._homes[session] = home
        return home
