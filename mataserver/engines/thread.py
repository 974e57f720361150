"""The thread engine: a worker thread per loaded model, for light models and small boxes.

It survives a model's exceptions. It does not survive a segmentation fault, and a model that hangs
keeps its thread for ever: the worker is given up and its thread abandoned.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from typing import TYPE_CHECKING, Any

from mataserver.engines.work import WorkerDied

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator, Sequence

    from mataserver.engines.host import ModelHost
    from mataserver.engines.work import Assignment, Facts, Job, Outcome, Placement

log = logging.getLogger("mataserver.thread")

_END = object()


class ThreadWorker:
    """One model in one daemon thread: a thread that hangs does not keep the server from ending."""

    facts: Facts

    def __init__(self, name: str, host: ModelHost) -> None:
        self._name = name
        self._host = host
        self._loop = asyncio.get_running_loop()
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._alive = True
        self._pending: set[asyncio.Future[Any]] = set()
        self._callbacks: list[Callable[[str], None]] = []
        self._thread = threading.Thread(target=self._run, name=f"model {self._name}", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it can still answer."""
        return self._alive

    def on_death(self, callback: Callable[[str], None]) -> None:
        """Have ``callback(reason)`` called when the worker is given up."""
        self._callbacks.append(callback)

    async def load(self) -> None:
        """Load the model in the thread."""
        self.facts = await self._in_thread(self._host.load)

    async def infer(self, jobs: Sequence[Job], deadline: float) -> list[Outcome]:
        """Run one batch; past ``deadline`` seconds the worker is given up."""
        try:
            async with asyncio.timeout(deadline):
                outcomes: list[Outcome] = await self._in_thread(lambda: self._host.infer(jobs))
        except TimeoutError:
            self.give_up(f"no answer within {deadline:g} s")
            raise WorkerDied(f"The model gave no answer within {deadline:g} s") from None
        return outcomes

    async def close_session(self, session: str) -> None:
        """Forget a session's state."""
        if self._alive:
            self._work.put(lambda: self._host.close_session(session))

    async def call(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a public method of the model."""
        return await self._in_thread(lambda: self._host.call(method, args, kwargs))

    def stream(
        self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> AsyncGenerator[Any]:
        """Iterate over a generator method: each item is computed when it is asked for."""
        return self._items(self._host.stream(method, args, kwargs), None)

    def generate(self, job: Job, deadline: float) -> AsyncGenerator[str | Outcome]:
        """Iterate over pieces of text, then the outcome: each is computed when it is asked for."""
        return self._items(self._host.generate(job), deadline)

    async def _items(self, items: Iterator[Any], deadline: float | None) -> AsyncGenerator[Any]:
        try:
            while True:
                async with asyncio.timeout(deadline):
                    item = await self._in_thread(lambda: next(items, _END))
                if item is _END:
                    return
                yield item
        except TimeoutError:
            self.give_up(f"no answer within {deadline:g} s")
            raise WorkerDied(f"The model gave no answer within {deadline:g} s") from None
        finally:
            if self._alive:
                self._work.put(items.close)  # type: ignore[attr-defined]

    async def memory(self) -> int:
        """Return 0: a thread's memory is the server's."""
        return 0

    def give_up(self, reason: str) -> None:
        """Abandon the thread and answer whoever waits."""
        if not self._alive:
            return
        self._alive = False
        self._work.put(None)
        log.error("worker of %s is given up: %s", self._name, reason)
        for future in self._pending:
            if not future.done():
                future.set_exception(WorkerDied(f"The model's worker was given up: {reason}"))
                future.exception()
        for callback in self._callbacks:
            callback(reason)

    async def close(self) -> None:
        """Close the model and end the thread."""
        if not self._alive:
            return
        self._alive = False
        ended = self._loop.create_future()
        self._work.put(self._host.close)
        self._work.put(lambda: self._tell(ended, None, None))
        self._work.put(None)
        try:
            async with asyncio.timeout(5.0):
                await ended
        except TimeoutError:
            log.error("worker of %s did not stop", self._name)  # noqa: TRY400 - no traceback to show

    async def _in_thread(self, function: Callable[[], Any]) -> Any:
        if not self._alive:
            raise WorkerDied("The model's worker is gone")
        future = self._loop.create_future()
        self._pending.add(future)
        self._work.put(lambda: self._settle(future, function))
        try:
            return await future
        finally:
            self._pending.discard(future)

    def _settle(self, future: asyncio.Future[Any], function: Callable[[], Any]) -> None:
        try:
            value, error = function(), None
        except Exception as caught:  # noqa: BLE001 - the worker's edge: it goes to whoever waits
            value, error = None, caught
        self._tell(future, value, error)

    def _tell(self, future: asyncio.Future[Any], value: Any, error: Exception | None) -> None:
        def tell() -> None:
            if future.done():
                return
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)

        try:
            self._loop.call_soon_threadsafe(tell)
        except RuntimeError:
            log.debug("the loop ended before %s answered", self._name)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                work()
            except Exception:
                log.exception("worker of %s", self._name)


class ThreadEngine:
    """Starts a thread per model."""

    async def start(self, assignment: Assignment, placement: Placement) -> ThreadWorker:  # noqa: ARG002 - the protocol
        """Load the model in a new thread. Raises a ``MataError`` when it cannot."""
        # numpy and Pillow cost a start of the server 0.1 s; most servers never need them here.
        from mataserver.engines.host import ModelHost

        worker = ThreadWorker(assignment.spec.name, ModelHost(assignment))
        try:
            await worker.load()
        except BaseException:
            await worker.close()
            raise
        return worker

    async def close(self) -> None:
        """Do nothing: every worker is closed by who holds it."""
