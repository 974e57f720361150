"""Several workers of one model behind the interface of one.

A batch goes to the least loaded replica. A video session stays with the replica that holds its
state, and so do all calls of services. A replica's death fails its requests in flight; it is
restarted while the others serve. The whole counts as dead only when no replica is left.

The number of replicas can change: a retired one gets no new work, completes what it has, and is
closed. A replica that holds state of a session or of services is never retired.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any

from mataserver.engines.replica_table import ReplicaTable
from mataserver.engines.work import Outcome
from mataserver.engines.worker_errors import WorkerDied
from mataserver.errors import MataError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

    from mataserver.engines.work import BatchCallback, Job, LoadReport, Worker
    from mataserver.engines.worker_errors import Death

FIRST_BACKOFF, MAX_BACKOFF = 0.5, 60.0
"""Back-off in seconds after an unexpected exit: the first, doubled each time, and the longest."""

log = logging.getLogger("mataserver.replicas")


class Restarts:
    """The replacements in progress. ``start(index)`` starts a worker, within ``load_timeout`` s.

    ``backoffs`` maps an index to its next back-off in seconds.
    """

    def __init__(self, start: Callable[[int], Awaitable[None]], load_timeout: float) -> None:
        self.backoffs: dict[int, float] = {}
        self._start_replica = start
        self._load_timeout = load_timeout
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def restart(self, index: int, *, immediately: bool) -> None:
        """Start a replacement in the background, and retry until it succeeds."""
        task = asyncio.get_running_loop().create_task(self._restart(index, immediately=immediately))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def reset_backoff(self, index: int) -> None:
        """Record that a worker has answered: the next back-off is the first again."""
        self.backoffs[index] = FIRST_BACKOFF

    def cancel(self) -> list[asyncio.Task[None]]:
        """Stop replacing; return the tasks that are being cancelled."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        return list(self._tasks)

    async def _restart(self, index: int, *, immediately: bool) -> None:
        """Start a replacement, with exponential back-off."""
        while not self._closed:
            if not immediately:
                backoff = self.backoffs.get(index, FIRST_BACKOFF)
                await asyncio.sleep(backoff)
                self.backoffs[index] = min(MAX_BACKOFF, 2 * backoff)
            immediately = False
            try:
                async with asyncio.timeout(self._load_timeout):
                    await self._start_replica(index)
            except MataError as error:
                log.error("a replica cannot be replaced: %s", error.detail)  # noqa: TRY400 - no traceback to show
            except TimeoutError:
                limit = self._load_timeout
                log.error("a replica cannot be replaced: it did not load within %g s", limit)  # noqa: TRY400 - no traceback to show
            except Exception:
                log.exception("a replica cannot be replaced")
            else:
                return


class Replicas:
    """``count`` workers of one model; ``start(index)`` starts one, within ``load_timeout`` s."""

    report: LoadReport

    def __init__(
        self, start: Callable[[int], Awaitable[Worker]], count: int, load_timeout: float = 600.0
    ) -> None:
        self._start = start
        self._table = ReplicaTable(count)
        self._restarts = Restarts(self._start_replica, load_timeout)
        self._callbacks: list[Callable[[Death], None]] = []
        self._is_suspect = False
        self._suspect_callbacks: list[Callable[[bool], None]] = []
        self._closed = False

    async def load(self) -> None:
        """Start every replica. Raises a ``MataError`` if one fails to start."""
        try:
            async with asyncio.TaskGroup() as group:
                for index in sorted(self._table.wanted):
                    group.create_task(self._start_replica(index))
        except BaseExceptionGroup as failures:
            await self._close()
            raise failures.exceptions[0] from None
        except BaseException:
            await self._close()
            raise
        if not self.is_alive:
            await self._close()
            raise WorkerDied("The model's worker died while it was loaded")
        self.report = self._table.existing[0].report

    @property
    def is_alive(self) -> bool:
        """Whether a replica can still answer."""
        return not self._closed and bool(self._table.alive_indices())

    @property
    def width(self) -> int:
        """How many batches can run concurrently."""
        return self._table.width

    @property
    def count(self) -> int:
        """The number of replicas, including those being started or replaced."""
        return len(self._table.wanted)

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes that hold the model."""
        return tuple(pid for worker in self._table.existing for pid in worker.pids)

    def on_death(self, callback: Callable[[Death], None]) -> None:
        """Call ``callback(death)`` when the last replica has died."""
        self._callbacks.append(callback)

    def on_suspect(self, callback: Callable[[bool], None]) -> None:
        """Call ``callback(suspect)`` when all live replicas become suspect, or no longer are."""
        self._suspect_callbacks.append(callback)
        if self._is_suspect:
            callback(self._is_suspect)

    def infer(self, jobs: Sequence[Job], callback: BatchCallback) -> Callable[[], None]:
        """Run a batch on the least loaded replica, or the one with the session's state."""
        table, index = self._table, self._replica_for(jobs[0])
        worker = table.worker(index)

        def on_outcomes(answer: list[Outcome] | MataError) -> None:
            table.decrement_load(index, worker)
            if not isinstance(answer, MataError):
                self._restarts.reset_backoff(index)
            callback(answer)

        table.load[index] += 1
        try:
            return worker.infer(jobs, on_outcomes)
        except MataError:
            table.decrement_load(index, worker)
            raise

    def generate(self, job: Job) -> AsyncGenerator[str | Outcome]:
        """Yield text pieces, then the outcome."""
        index = self._replica_for(job)
        worker = self._table.worker(index)
        return self._counted(index, worker, worker.generate(job))

    async def close_session(self, session: str) -> None:
        """Discard a session's state."""
        index = self._table.sessions.pop(session, None)
        if index is not None and self._table.is_alive(index):
            await self._table.worker(index).close_session(session)

    async def call(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a public method on the first replica, which holds the services' state."""
        return await self._table.worker(0).call(method, args, kwargs)

    def stream(
        self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> AsyncGenerator[Any]:
        """Yield the items of a public generator method on the first replica."""
        worker = self._table.worker(0)
        return self._counted(0, worker, worker.stream(method, args, kwargs))

    async def _counted(
        self, index: int, worker: Worker, items: AsyncGenerator[Any]
    ) -> AsyncGenerator[Any]:
        """Yield the items of a stream, counting it as one unit of load until its end."""
        self._table.load[index] += 1
        try:
            async with contextlib.aclosing(items):
                async for item in items:
                    if isinstance(item, Outcome):  # of a text: an answer of the worker
                        self._restarts.reset_backoff(index)
                    yield item
        finally:
            self._table.decrement_load(index, worker)

    async def memory(self) -> int:
        """Return the private memory of all replicas in bytes, 0 when unknown."""
        workers = self._table.workers
        return sum([await worker.memory() for worker in workers if worker is not None])

    async def close(self) -> None:
        """Unload every replica. Raises a ``MataError`` if one cannot be closed."""
        await self._close()
        if count := len(self._table.unclosed):
            raise MataError(f"{count} of the model's workers could not be closed")

    async def _close(self) -> None:
        self._closed = True
        ends = [*self._restarts.cancel(), asyncio.ensure_future(self._table.close())]
        await asyncio.shield(asyncio.gather(*ends, return_exceptions=True))  # cancels may recur

    async def grow(self) -> None:
        """Start one more replica. Raises a ``MataError`` if that fails."""
        index = self._table.add()
        try:
            await self._start_replica(index)
        except BaseException:
            self._table.wanted.discard(index)
            raise

    async def shrink(self) -> bool:
        """Retire and close the least loaded replica; False if each holds state."""
        stateful = {0, *self._table.sessions.values()}
        stateless = [i for i in self._table.alive_indices() if i not in stateful]
        if not stateless:
            return False
        await self._table.retire(min(reversed(stateless), key=lambda i: self._table.load[i]))
        return True

    def terminate(self, error: MataError) -> None:
        """Kill every replica; pending requests fail with ``error``."""
        self._closed = True
        self._restarts.cancel()
        for worker in self._table.running:
            worker.terminate(error)

    # one replica

    async def _start_replica(self, index: int) -> None:
        worker = await self._start(index)
        self._table.assign(index, worker)
        worker.on_death(lambda death: self._on_replica_death(index, death))
        self._set_suspect(index, suspect=False)
        worker.on_suspect(lambda suspect: self._set_suspect(index, suspect=suspect))

    def _set_suspect(self, index: int, *, suspect: bool) -> None:
        """Record whether a replica may be lost; report when that changes for all of them."""
        suspects = self._table.suspects
        (suspects.add if suspect else suspects.discard)(index)
        all_suspect = self._table.is_suspect
        if all_suspect != self._is_suspect:
            self._is_suspect = all_suspect
            for callback in self._suspect_callbacks:
                callback(all_suspect)

    def _on_replica_death(self, index: int, death: Death) -> None:
        table = self._table
        if index in table.retiring:  # it was being retired, so it needs no replacement
            table.retiring[index].set()
            return
        table.workers[index] = None
        table.sessions = {name: each for name, each in table.sessions.items() if each != index}
        if self.is_alive:
            self._set_suspect(index, suspect=False)
            self._restarts.restart(index, immediately=not death.is_model_fault)
            return
        self._closed = True
        self._restarts.cancel()
        for callback in self._callbacks:
            callback(death)
        self._set_suspect(index, suspect=False)

    def _replica_for(self, job: Job) -> int:
        """Return the replica for a job: only one of a session with state is bound to any."""
        if job.session and self.report.stateful:
            return self._table.replica_of(job.session)
        return self._table.least_loaded()
