"""Several workers of one model behind the face of one.

A batch goes to the replica with the least to do. A video session stays with the replica that keeps
its state, and so does everything that a service calls. A replica that dies fails the requests it
held and is replaced beside the others; the whole is dead only when no replica is left.

There may become more of them, and fewer: one that is given up gets nothing new, ends what it has
and is closed. One that keeps the state of a session, or what services keep, is never given up.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any

from mataserver.engines.work import WorkerDied
from mataserver.errors import MataError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

    from mataserver.engines.work import Answered, Death, Facts, Job, Outcome, Worker

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0

log = logging.getLogger("mataserver.replicas")


class Replicas:
    """``count`` workers of one model; ``start(index)`` starts one, in ``load_timeout`` seconds."""

    facts: Facts

    def __init__(
        self, start: Callable[[int], Awaitable[Worker]], count: int, load_timeout: float = 600.0
    ) -> None:
        self._start = start
        self._load_timeout = load_timeout
        self._workers: list[Worker | None] = [None] * count
        self._wanted = set(range(count))
        self._load = [0] * count
        self._pauses = [FIRST_PAUSE] * count
        self._quiet: dict[int, asyncio.Event] = {}
        """Of the replicas that are given up: set once they have nothing to do."""
        self._homes: dict[str, int] = {}
        self._callbacks: list[Callable[[Death], None]] = []
        self._suspects: set[int] = set()
        self._suspect = False
        self._doubters: list[Callable[[bool], None]] = []
        self._restarts: set[asyncio.Task[None]] = set()
        self._closed = False

    async def load(self) -> None:
        """Start every replica. Raises a ``MataError`` when one of them cannot be started."""
        indexes = range(len(self._workers))
        try:
            async with asyncio.TaskGroup() as group:
                for index in indexes:
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
        self.facts = self._any().facts

    @property
    def alive(self) -> bool:
        """Whether a replica can still answer."""
        return not self._closed and bool(self._living())

    @property
    def width(self) -> int:
        """How many batches run side by side."""
        return sum(self._workers[index] is not None for index in self._wanted)

    @property
    def count(self) -> int:
        """How many there are, with those that are being started or replaced."""
        return len(self._wanted)

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes that hold the model."""
        return tuple(pid for worker in self._workers if worker is not None for pid in worker.pids)

    def on_death(self, callback: Callable[[Death], None]) -> None:
        """Have ``callback(death)`` called when the last replica has died."""
        self._callbacks.append(callback)

    def on_suspect(self, callback: Callable[[bool], None]) -> None:
        """Have ``callback(suspect)`` called when every replica that lives may be lost, or not."""
        self._doubters.append(callback)

    def infer(self, jobs: Sequence[Job], answered: Answered) -> Callable[[], None]:
        """Run one batch where there is least to do; a frame goes where its session's state is."""
        session = jobs[0].session
        keeps = session is not None and self.facts.stateful
        index = self._home(session) if keeps and session else self._idlest()
        worker = self._worker(index)

        def take(answer: list[Outcome] | MataError) -> None:
            self._less(index, worker)
            if not isinstance(answer, MataError):
                self._pauses[index] = FIRST_PAUSE
            answered(answer)

        self._load[index] += 1
        try:
            return worker.infer(jobs, take)
        except MataError:
            self._less(index, worker)
            raise

    def generate(self, job: Job) -> AsyncGenerator[str | Outcome]:
        """Iterate over pieces of text, then the outcome."""
        index = self._idlest() if job.session is None else self._home(job.session)
        worker = self._worker(index)
        return self._counted(index, worker, worker.generate(job))

    async def close_session(self, session: str) -> None:
        """Forget a session's state."""
        index = self._homes.pop(session, None)
        if index is not None and self._is_alive(index):
            await self._worker(index).close_session(session)

    async def call(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a public method of the first replica's model, which keeps what services keep."""
        return await self._worker(0).call(method, args, kwargs)

    def stream(
        self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> AsyncGenerator[Any]:
        """Iterate over a public generator method of the first replica's model."""
        worker = self._worker(0)
        return self._counted(0, worker, worker.stream(method, args, kwargs))

    async def memory(self) -> int:
        """Private memory of all replicas in bytes, 0 when unknown."""
        return sum([await worker.memory() for worker in self._workers if worker is not None])

    async def close(self) -> None:
        """Unload every replica."""
        self._closed = True
        for task in self._restarts:
            task.cancel()
        workers = [worker for worker in self._workers if worker is not None]
        await asyncio.gather(*self._restarts, *(w.close() for w in workers), return_exceptions=True)

    async def grow(self) -> None:
        """Start one more, and have it take its part. Raises a ``MataError`` when it cannot."""
        taken = self._wanted | self._quiet.keys()
        index = next(i for i in range(len(self._workers) + 1) if i not in taken)
        if index == len(self._workers):
            self._workers.append(None)
            self._load.append(0)
            self._pauses.append(FIRST_PAUSE)
        self._wanted.add(index)
        try:
            await self._begin(index)
        except BaseException:
            self._wanted.discard(index)
            raise

    async def shrink(self) -> bool:
        """Give up the one with the least to do, and close it; False when each keeps something."""
        kept = {0, *self._homes.values()}
        spare = [i for i in self._living() if i not in kept]
        if not spare:
            return False
        index = min(reversed(spare), key=lambda i: self._load[i])
        worker = self._worker(index)
        self._wanted.discard(index)
        quiet = self._quiet[index] = asyncio.Event()
        while self._load[index] and worker.alive:
            await quiet.wait()
        await worker.close()
        self._workers[index] = (
            None  # not before: who closes the whole meanwhile closes this one too
        )
        self._suspects.discard(index)
        del self._quiet[index]
        return True

    def dismiss(self, error: MataError) -> None:
        """End every replica at once; whoever waits is told ``error``."""
        self._closed = True
        for task in self._restarts:
            task.cancel()
        for worker in self._workers:
            if worker is not None:
                worker.dismiss(error)

    # one replica

    async def _begin(self, index: int) -> None:
        worker = await self._start(index)
        self._workers[index], self._load[index] = worker, 0
        worker.on_death(lambda death: self._died(index, death))
        self._doubt(index, suspect=False)
        worker.on_suspect(lambda suspect: self._doubt(index, suspect=suspect))

    def _doubt(self, index: int, *, suspect: bool) -> None:
        """Note whether a replica may be lost; tell when none is left that is sound, or one is."""
        (self._suspects.add if suspect else self._suspects.discard)(index)
        living = {*self._living()}
        every = bool(living) and living <= self._suspects
        if every != self._suspect:
            self._suspect = every
            for callback in self._doubters:
                callback(every)

    def _died(self, index: int, death: Death) -> None:
        if index in self._quiet:  # it was given up, and nobody misses it
            self._quiet[index].set()
            return
        self._workers[index] = None
        self._homes = {session: home for session, home in self._homes.items() if home != index}
        if not self.alive:
            self._closed = True
            for restart in self._restarts:
                restart.cancel()
            for callback in self._callbacks:
                callback(death)
            self._doubt(index, suspect=False)
            return
        self._doubt(index, suspect=False)
        task = asyncio.get_running_loop().create_task(
            self._replace(index, at_once=not death.blamed)
        )
        self._restarts.add(task)
        task.add_done_callback(self._restarts.discard)

    async def _replace(self, index: int, *, at_once: bool) -> None:
        """Start a replica anew; the more often it dies by itself, the longer it waits."""
        while not self._closed:
            if not at_once:
                await asyncio.sleep(self._pauses[index])
                self._pauses[index] = min(LONGEST_PAUSE, 2 * self._pauses[index])
            at_once = False
            try:
                async with asyncio.timeout(self._load_timeout):
                    await self._begin(index)
            except MataError as error:
                log.error("a replica cannot be replaced: %s", error.detail)  # noqa: TRY400 - told as it is
            except TimeoutError:
                limit = self._load_timeout
                log.error("a replica cannot be replaced: it did not load within %g s", limit)  # noqa: TRY400 - told as it is
            except Exception:
                log.exception("a replica cannot be replaced")
            else:
                return

    def _living(self) -> list[int]:
        """Return the replicas that can answer, and are not given up."""
        return [i for i in sorted(self._wanted) if self._is_alive(i)]

    def _is_alive(self, index: int) -> bool:
        worker = self._workers[index]
        return worker is not None and worker.alive

    def _worker(self, index: int) -> Worker:
        worker = self._workers[index]
        if worker is None or not worker.alive:
            raise WorkerDied("The model's worker is gone")
        return worker

    def _any(self) -> Worker:
        return next(worker for worker in self._workers if worker is not None)

    def _idlest(self) -> int:
        living = self._living()
        if not living:
            raise WorkerDied("The model's worker is gone")
        if self._suspects:  # one that may be lost is the last choice, however little it has to do
            living = [i for i in living if i not in self._suspects] or living
        return min(living, key=lambda i: self._load[i])

    def _home(self, session: str) -> int:
        home = self._homes.get(session)
        if home is None:
            counts = [0] * len(self._workers)
            for index in self._homes.values():
                counts[index] += 1
            living = self._living()
            home = min(living, key=lambda i: counts[i], default=0)
            self._homes[session] = home
        return home

    def _less(self, index: int, worker: Worker) -> None:
        """Note that a worker has one thing less to do; what its successor has is not its."""
        if self._workers[index] is worker:
            self._load[index] -= 1
            if index in self._quiet and not self._load[index]:
                self._quiet[index].set()

    async def _counted(
        self, index: int, worker: Worker, items: AsyncGenerator[Any]
    ) -> AsyncGenerator[Any]:
        self._load[index] += 1
        try:
            async with contextlib.aclosing(items):
                async for item in items:
                    yield item
        finally:
            self._less(index, worker)
