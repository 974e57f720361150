"""The thread engine: a worker thread per loaded model, for light models and small machines.

It survives a model's exceptions, but not a segmentation fault. The thread of a model that hangs
cannot be ended: the worker is given up and its thread abandoned.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

import msgspec

from mataserver.engines.model_thread import ModelThread
from mataserver.engines.watchdog import Watchdog, check_interval
from mataserver.engines.work import LOAD_LEFTOVER, LOAD_PHASE
from mataserver.engines.worker_errors import (
    ABANDONED,
    Death,
    DecodeTimeoutError,
    NotDispatchedError,
    WorkerDied,
    WorkerReplacedError,
)
from mataserver.errors import MataError, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator, Sequence

    from mataserver.engines.host import ModelHost
    from mataserver.engines.work import (
        Assignment,
        BatchCallback,
        Job,
        LoadReport,
        Outcome,
        Placement,
    )

log = logging.getLogger("mataserver.thread")

_END = object()


class ThreadWorker:
    """One model in one daemon thread: a hung thread does not keep the server from exiting."""

    report: LoadReport
    width = 1

    def __init__(
        self, name: str, infer_timeout: float, host: ModelHost, decode_timeout: float = 10.0
    ) -> None:
        self._name = name
        self._decode_timeout = decode_timeout
        self._decode_check: asyncio.TimerHandle | None = None
        self._host = host
        self._timed_out: tuple[Job, MataError] | None = None
        self._loop = asyncio.get_running_loop()
        self._alive = True
        self._watchdog = Watchdog(infer_timeout, self._on_hang, float("inf"))
        self._callbacks: list[Callable[[Death], None]] = []
        self._thread = ModelThread(name, self._watchdog)

    @property
    def is_alive(self) -> bool:
        """Whether it can still answer."""
        return self._alive

    @property
    def pids(self) -> tuple[int, ...]:
        """The server's own pid."""
        return (self.report.pid,)

    @property
    def ended(self) -> asyncio.Future[None]:
        """Done once its thread has ended."""
        return self._thread.ended

    def on_death(self, callback: Callable[[Death], None]) -> None:
        """Call ``callback(death)`` when the worker is given up."""
        self._callbacks.append(callback)

    def on_suspect(self, callback: Callable[[bool], None]) -> None:
        """Do nothing: a local worker is never in doubt."""

    async def load(self) -> None:
        """Load the model in the thread; the caller imposes a timeout."""
        LOAD_PHASE.get()("weights")
        report = await self._in_thread(self._host.load, watched=False)
        # Decoding beside the model was tried: lock contention costs more than it gains.
        self.report = msgspec.structs.replace(report, decoders=0)
        self._watchdog.raise_limit(report.step_timeout)

    def infer(self, jobs: Sequence[Job], callback: BatchCallback) -> Callable[[], None]:
        """Run one batch; the worker is given up if it hangs."""
        is_cancelled = False
        for index, job in enumerate(jobs):
            job.position = (0, index)

        def cancel() -> None:
            nonlocal is_cancelled
            is_cancelled = True

        def infer() -> list[Outcome]:
            if is_cancelled:
                raise ABANDONED.error(Unavailable)
            return self._host.infer(jobs)

        def pass_outcomes(outcomes: Any, error: Exception | None) -> None:
            if error is None or isinstance(error, MataError):
                callback(outcomes if error is None else error)
            else:
                log.error("a batch failed", exc_info=error)
                callback(MataError("The model failed"))

        self._check_alive()
        self._thread.put(infer, pass_outcomes)
        return cancel

    async def close_session(self, session: str) -> None:
        """Discard a session's state."""
        if self._alive:
            self._thread.post(lambda: self._host.close_session(session))

    async def call(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a public method of the model."""
        return await self._in_thread(lambda: self._host.call(method, args, kwargs))

    def stream(
        self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> AsyncGenerator[Any]:
        """Yield the items of a generator method, computed on demand."""
        return self._items(self._host.stream(method, args, kwargs))

    def generate(self, job: Job) -> AsyncGenerator[str | Outcome]:
        """Yield text pieces, then the outcome, computed on demand."""
        return self._items(self._host.generate(job), job)

    async def _items(self, items: Iterator[Any], job: Job | None = None) -> AsyncGenerator[Any]:
        try:
            while True:
                item = await self._in_thread(lambda: next(items, _END))
                if item is _END:
                    return
                yield item
        except (WorkerReplacedError, NotDispatchedError):  # the latter if its reader paused
            if self._timed_out is not None and job is self._timed_out[0]:
                raise self._timed_out[1] from None
            raise
        finally:
            if self._alive:
                self._thread.post(items.close)  # type: ignore[attr-defined]

    async def memory(self) -> int:
        """Return 0: a thread's memory is the server's."""
        return 0

    def terminate(self, error: MataError) -> None:
        """Abandon the thread; pending requests fail with ``error``."""
        self._callbacks.clear()
        self._abandon(error, Death("it was dismissed", is_model_fault=False))

    def _abandon(self, error: MataError, death: Death, current: MataError | None = None) -> None:
        """Give the thread up: what runs fails with ``current``, what waits with ``error``."""
        self._alive = False
        self._thread.fail_current(current or error)
        self._watchdog.stop()
        self._thread.post(self._host.close)  # in case it ever becomes responsive again
        self._thread.end()
        self._thread.fail_all(error)
        for callback in self._callbacks:
            callback(death)

    def _check_decoding(self) -> None:
        """Check the decode timeout; abandon a stuck thread, whose other images move to the next."""
        self._decode_check = None
        if not self._alive or not self._thread.is_busy:
            return
        jobs = self._host.jobs_in_decoding()
        thread, seconds = _slowest_decoding({self._thread.ident or 0, *jobs})
        if seconds > self._decode_timeout:
            self._on_decode_timeout(thread, jobs.get(thread))
            return
        if seconds:
            self._watchdog.record_progress()
        self._schedule_decode_check()

    def _on_decode_timeout(self, thread: int, job: Job | None) -> None:
        reason = f"an image took over {self._decode_timeout:g} s to decode"
        log.warning("worker of %s is replaced: %s", self._name, reason)
        error = DecodeTimeoutError(self._decode_timeout, 0 if job is None else job.position[1])
        # Streams take turns: if another thread decodes for one, what runs now may be another's.
        own = error if thread == self._thread.ident else None
        self._timed_out = None if job is None else (job, error)
        self._abandon(WorkerReplacedError(), Death(reason, is_model_fault=False), own)

    def _schedule_decode_check(self) -> None:
        if self._decode_check is None:
            later = check_interval(self._decode_timeout)
            self._decode_check = self._loop.call_later(later, self._check_decoding)

    async def close(self) -> None:
        """Close the model and end the thread."""
        if not self._alive:
            return
        ended = self._thread.submit(self._host.close, watched=False)
        self._alive = False
        self._thread.end()
        try:
            async with asyncio.timeout(5.0):
                await ended
        except TimeoutError:
            log.error("worker of %s did not stop", self._name)  # noqa: TRY400 - no traceback to show

    def _on_hang(self) -> None:
        """Abandon the thread for what runs; what waits behind it can go to the next worker."""
        if not self._alive:
            return
        limit = f"{round(self._watchdog.limit, 1):g} s"
        reason = f"no answer within {limit}"
        log.error("worker of %s is abandoned: %s", self._name, reason)
        hung = WorkerDied(f"The model gave {reason}")
        self._abandon(NotDispatchedError(), Death(reason), hung)

    async def _in_thread(self, function: Callable[[], Any], *, watched: bool = True) -> Any:
        self._check_alive(watched=watched)
        return await self._thread.submit(function, watched=watched)

    def _check_alive(self, *, watched: bool = True) -> None:
        """Raise ``NotDispatchedError`` without a worker; else start watching the decode timeout."""
        if not self._alive:
            raise NotDispatchedError
        if watched:
            self._schedule_decode_check()


def _slowest_decoding(threads: set[int]) -> tuple[int, float]:
    """Return which of some threads has decoded a picture for longest, and for how many seconds."""
    from mataserver import media  # as it is imported with a model, and no sooner

    begun = {thread: since for thread, since in media.decoding().items() if thread in threads}
    if not begun:
        return 0, 0.0
    slowest = min(begun, key=begun.__getitem__)
    return slowest, time.monotonic() - begun[slowest]


class ThreadEngine:
    """Starts a thread per model."""

    async def start(self, assignment: Assignment, placement: Placement) -> ThreadWorker:  # noqa: ARG002 - the protocol
        """Load the model in a new thread. Raises a ``MataError`` if that fails."""
        # numpy and Pillow add 0.1 s to the server's start, and most servers never need them here.
        from mataserver.engines.host import ModelHost

        host = ModelHost(assignment)
        name, infer_timeout = assignment.spec.name, assignment.infer_timeout
        worker = ThreadWorker(name, infer_timeout, host, assignment.context.decode_timeout)
        try:
            await worker.load()
        except asyncio.CancelledError:  # the load may never return
            worker.terminate(Unavailable("The load was given up"))
            LOAD_LEFTOVER.get()(worker.ended)
            raise
        except BaseException:
            await worker.close()
            raise
        return worker

    async def close(self) -> None:
        """Do nothing: the owner of each worker closes it."""
