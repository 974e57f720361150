"""The server's side of one child process: requests, supervision, shutdown."""

from __future__ import annotations

import asyncio
import functools
import logging
import pickle
from typing import TYPE_CHECKING

from mataserver.engines import wire
from mataserver.engines.lifetime import Lifetime
from mataserver.engines.memory import private_bytes, process_tree
from mataserver.engines.method_calls import MethodCalls
from mataserver.engines.watchdog import Watchdog
from mataserver.engines.work import LOAD_PHASE
from mataserver.engines.worker_connection import FloodError, WorkerConnection, read_batch
from mataserver.engines.worker_errors import (
    DecodeTimeoutError,
    MemoryLimitError,
    NotDispatchedError,
    WorkerDied,
    WorkerReplacedError,
)
from mataserver.engines.zygote_handle import STOP_GRACE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mataserver.engines.work import Assignment, BatchCallback, Job, LoadReport
    from mataserver.errors import MataError

EXIT_DRAIN_SECONDS = 0.5
"""Seconds that an exited worker's last answers may take to arrive."""
MEMORY_CHECK_SECONDS = 0.5
"""Seconds between two checks of a worker's memory."""

log = logging.getLogger("mataserver.process")


class ProcessWorker(asyncio.Protocol):
    """A model in a child process."""

    report: LoadReport
    width = 1

    def __init__(self, name: str, infer_timeout: float, decode_timeout: float = 10.0) -> None:
        self._name = name
        self._decode_timeout = decode_timeout
        self._life = Lifetime(name)
        self._watchdog = Watchdog(infer_timeout, self._on_hang, decode_timeout)
        self._connection = WorkerConnection(self._watchdog, self._on_message)
        self._calls = calls = MethodCalls(self._connection, lambda: self.is_alive)
        self.call, self.stream, self.generate = calls.call, calls.stream, calls.generate
        self.on_death, self.on_end = self._life.on_death, self._life.on_end
        self.use_memory = self._connection.use_memory
        self._loaded: asyncio.Future[LoadReport] = asyncio.get_running_loop().create_future()
        self._kill: Callable[[], None] = lambda: None
        self._memory_watch: asyncio.Task[None] | None = None

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport to the child."""
        self._connection.connect(transport)  # type: ignore[arg-type]

    def data_received(self, data: bytes) -> None:
        """Dispatch the received messages; kill a child that sends malformed ones."""
        try:
            self._connection.feed(data)
        except FloodError as flood:
            self.kill(str(flood))
        except Exception:
            log.exception("worker of %s sent a message that cannot be read", self._name)
            self.kill("it sent a message that cannot be read")

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail everything pending: the child is gone."""
        del exc  # an error and a plain end of the stream are handled alike
        if self._life.has_ended:
            return
        self._life.end()
        self._kill()  # the process may outlive its socket
        self._watchdog.stop()
        if self._memory_watch is not None:
            self._memory_watch.cancel()
        error = self._life.error
        if not self._loaded.done():
            self._loaded.set_exception(error)
            self._loaded.exception()  # marks it as retrieved, in case its awaiter was cancelled
        self._connection.close(error)
        self._life.run_callbacks()

    @property
    def is_alive(self) -> bool:
        """Whether the child can still answer."""
        life = self._life
        return not (life.has_ended or life.is_stopping or life.has_external_cause)

    @property
    def pids(self) -> tuple[int, ...]:
        """The child's pid."""
        return (self.report.pid,)

    def on_suspect(self, callback: Callable[[bool], None]) -> None:
        """Do nothing: a local worker is never in doubt."""

    def infer(self, jobs: Sequence[Job], callback: BatchCallback) -> Callable[[], None]:
        """Run one batch; the child is killed if it hangs."""
        if not self.is_alive:
            raise NotDispatchedError
        count = len(jobs)
        request = self._connection.send_batch(jobs, lambda r: callback(read_batch(r, count)))
        return functools.partial(self._cancel_batch, request)

    def _cancel_batch(self, request: int) -> None:
        if self.is_alive:
            self._connection.cancel_batch(request)

    async def close_session(self, session: str) -> None:
        """Discard a session's state."""
        if self.is_alive:
            self._connection.send(wire.CloseSession(session))

    async def memory(self) -> int:
        """Return the child's private memory in bytes."""
        return await asyncio.to_thread(private_bytes, self.report.pid)

    async def load(self, assignment: Assignment, kill: Callable[[], None]) -> None:
        """Send the assignment and wait until the model is ready."""
        LOAD_PHASE.get()("weights")
        self._kill = kill
        self._calls.package = str(getattr(assignment.load, "__module__", "")).partition(".")[0]
        # The only pickle on this wire: to the worker, of objects of the server and its plugins.
        self._connection.send(wire.Load(), [pickle.dumps(assignment, protocol=5)])
        self.report = await asyncio.shield(self._loaded)
        self._watchdog.raise_limit(self.report.step_timeout)

    def limit_memory(self, pid: int, limit: int) -> None:
        """Kill the child once it holds more than ``limit`` bytes; 0 for no limit."""
        if limit:
            self._memory_watch = asyncio.create_task(self._watch_memory(pid, limit))

    def on_exit(self, reason: str) -> None:
        """Handle the zygote's report that the child has exited."""
        if self._life.is_stopping or self._life.has_ended:
            return
        log.warning("worker of %s ended: %s", self._name, reason)
        # Wait: its last answers may be in flight. A descendant may keep the socket open after that.
        asyncio.get_running_loop().call_later(EXIT_DRAIN_SECONDS, self._kill_if_running, reason)

    def _kill_if_running(self, reason: str) -> None:
        if not self._life.has_ended:
            self.kill(reason)

    def kill(self, reason: str) -> None:
        """Kill the child and fail pending requests immediately."""
        self._life.reason = reason
        self._kill()
        self._connection.abort()
        self.connection_lost(None)

    async def close(self) -> None:
        """Stop the child; kill it if it does not exit within ``STOP_GRACE`` seconds."""
        self._life.is_stopping = True
        if self._life.has_ended:
            return
        self._connection.send(wire.Stop())
        try:
            async with asyncio.timeout(STOP_GRACE):
                await self._life.wait()
        except TimeoutError:
            self.kill("it did not stop")

    def abandon(self) -> None:
        """Kill a child whose load failed or was cancelled."""
        self._life.is_stopping = True
        self._kill_if_running("its load was given up")

    def terminate(self, error: MataError) -> None:
        """Kill the child; pending requests fail with ``error``."""
        self._life.is_stopping, self._life.pending_error = True, error
        self._kill_if_running("it was dismissed")

    def _on_hang(self) -> None:
        """Kill the child for the oldest request, on which it hangs.

        Its other requests, of which it had decoded at most the next ones' images, have one more try
        on the next worker: one, as it may have hung on one of these (streams take turns).
        """
        limit = f"{round(self._watchdog.limit, 1):g} s"
        request = self._connection.oldest_request()
        if request is not None:
            self._connection.fail(request, WorkerDied(f"The model gave no answer within {limit}"))
        self._life.pending_error = NotDispatchedError()
        self.kill(f"no answer within {limit}")

    def _on_message(self, message: wire.Message) -> None:
        """Handle an unsolicited message of the child."""
        if isinstance(message, wire.Loaded):
            if not self._loaded.done():
                self._loaded.set_result(message.report)
        elif isinstance(message, wire.LoadRefused):
            self._life.is_stopping = True
            if not self._loaded.done():
                self._loaded.set_exception(message.failure.error())
        elif isinstance(message, wire.DecodeTimedOut):
            self._on_decode_timeout(message.id, message.job)
        elif isinstance(message, wire.WaitingForDecoder):
            self._watchdog.record_progress()

    def _on_decode_timeout(self, request: int, job: int) -> None:
        """Kill the child for a stuck image; its other requests move to the next worker."""
        self._life.mark_external_cause(WorkerReplacedError())
        self._connection.fail(request, DecodeTimeoutError(self._decode_timeout, job))
        self.kill(f"an image took over {self._decode_timeout:g} s to decode")

    async def _watch_memory(self, pid: int, limit: int) -> None:
        """Kill the child once it, with all that it has started, holds more than ``limit`` bytes.

        What it is processing is to blame; its other requests move to the next worker. A limit of
        the address space would not do: a GPU's driver reserves far more than it uses.
        """
        while await asyncio.to_thread(_tree_bytes, pid) <= limit:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(MEMORY_CHECK_SECONDS)
        self._life.mark_external_cause(WorkerReplacedError())
        if not self._loaded.done():
            self._life.is_stopping = True
            self._loaded.set_exception(MemoryLimitError())
        request = self._connection.oldest_request()
        if request is not None:
            self._connection.fail(request, MemoryLimitError())
        self.kill("its memory grew over max_ram_mb")


def _tree_bytes(pid: int) -> int:
    return sum(map(private_bytes, process_tree(pid)))
