"""The server's side of one child process: requests, supervision, shutdown."""

from __future__ import annotations

import asyncio
import functools
import logging
import pickle
from typing import TYPE_CHECKING

from mataserver.engines import wire
from mataserver.engines.calls import Calls
from mataserver.engines.exchange import Exchange, Flooded
from mataserver.engines.lifetime import Lifetime
from mataserver.engines.memory import family, private_bytes
from mataserver.engines.replies import read_batch
from mataserver.engines.watchdog import Watchdog
from mataserver.engines.worker_errors import (
    DecodeTimeoutError,
    MemoryLimitError,
    NotDispatchedError,
    WorkerDied,
    WorkerReplacedError,
)
from mataserver.engines.zygotes import STOP_GRACE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mataserver.engines.replies import Reply
    from mataserver.engines.work import Answered, Assignment, Facts, Job
    from mataserver.errors import MataError

EXIT_DRAIN_SECONDS = 0.5
"""Seconds that an exited worker's last answers may take to arrive."""
CEILING_SECONDS = 0.5
"""Seconds between two looks at how much memory a worker holds."""

log = logging.getLogger("mataserver.process")


class ProcessWorker(asyncio.Protocol):
    """A model in a child process."""

    facts: Facts
    width = 1

    def __init__(self, name: str, patience: float, decode_patience: float = 10.0) -> None:
        self._name = name
        self._decode_patience = decode_patience
        self._life = Lifetime(name)
        self._watchdog = Watchdog(patience, self._hung, decode_patience)
        self._exchange = Exchange(self._watchdog, self._noticed)
        self._calls = calls = Calls(self._exchange, lambda: self.alive)
        self.call, self.stream, self.generate = calls.call, calls.stream, calls.generate
        self.on_death, self.on_end = self._life.on_death, self._life.on_end
        self.share = self._exchange.share
        self._loaded: asyncio.Future[Facts] = asyncio.get_running_loop().create_future()
        self._kill: Callable[[], None] = lambda: None
        self._ceiling: asyncio.Task[None] | None = None

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport to the child."""
        self._exchange.connect(transport)  # type: ignore[arg-type]

    def data_received(self, data: bytes) -> None:
        """Dispatch the received messages; kill a child that sends malformed ones."""
        try:
            self._exchange.feed(data)
        except Flooded as flood:
            self.kill(str(flood))
        except Exception:
            log.exception("worker of %s sent what cannot be read", self._name)
            self.kill("it sent what cannot be read")

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail everything pending: the child is gone."""
        del exc  # an error and a plain end of the stream are handled alike
        if self._life.ended:
            return
        self._life.end()
        self._kill()  # the process may outlive its socket
        self._watchdog.stop()
        if self._ceiling is not None:
            self._ceiling.cancel()
        error = self._life.error
        if not self._loaded.done():
            self._loaded.set_exception(error)
            self._loaded.exception()  # marks it as retrieved, in case its awaiter was cancelled
        self._exchange.close(error)
        self._life.run_callbacks()

    @property
    def alive(self) -> bool:
        """Whether the child can still answer."""
        life = self._life
        return not (life.ended or life.stopping or life.has_external_cause)

    @property
    def pids(self) -> tuple[int, ...]:
        """The child's pid."""
        return (self.facts.pid,)

    def on_suspect(self, callback: Callable[[bool], None]) -> None:
        """Do nothing: a local worker is never in doubt."""

    def infer(self, jobs: Sequence[Job], answered: Answered) -> Callable[[], None]:
        """Run one batch; the child is killed if it hangs."""
        if not self.alive:
            raise NotDispatchedError
        take = functools.partial(_finish, len(jobs), answered)
        return functools.partial(self._drop, self._exchange.send_batch(jobs, take))

    def _drop(self, request: int) -> None:
        if self.alive:
            self._exchange.drop(request)

    async def close_session(self, session: str) -> None:
        """Discard a session's state."""
        if self.alive:
            self._exchange.send(wire.CloseSession(session))

    async def memory(self) -> int:
        """Return the child's private memory in bytes."""
        return await asyncio.to_thread(private_bytes, self.facts.pid)

    async def load(self, assignment: Assignment, kill: Callable[[], None]) -> None:
        """Send the assignment and wait until the model is ready."""
        self._kill = kill
        self._calls.package = str(getattr(assignment.load, "__module__", "")).partition(".")[0]
        # The only pickle on this wire: to the worker, of objects of the server and its plugins.
        self._exchange.send(wire.Load(), [pickle.dumps(assignment, protocol=5)])
        self.facts = await asyncio.shield(self._loaded)
        self._watchdog.allow(self.facts.step_timeout)

    def limit_memory(self, pid: int, limit: int) -> None:
        """Kill the child once it holds more than ``limit`` bytes; 0 for no limit."""
        if limit:
            self._ceiling = asyncio.create_task(_watch_memory(pid, limit, self._overgrown))

    def exited(self, how: str) -> None:
        """Handle the zygote's report that the child has exited."""
        if self._life.stopping or self._life.ended:
            return
        log.warning("worker of %s ended: %s", self._name, how)
        # Wait: its last answers may be in flight. A descendant may keep the socket open after that.
        asyncio.get_running_loop().call_later(EXIT_DRAIN_SECONDS, self._gone, how)

    def _gone(self, how: str) -> None:
        if not self._life.ended:
            self.kill(how)

    def kill(self, reason: str) -> None:
        """Kill the child and fail pending requests at once."""
        self._life.reason = reason
        self._kill()
        self._exchange.abort()
        self.connection_lost(None)

    async def close(self) -> None:
        """Stop the child; kill it if it does not exit within ``STOP_GRACE`` seconds."""
        self._life.stopping = True
        if self._life.ended:
            return
        self._exchange.send(wire.Stop())
        try:
            async with asyncio.timeout(STOP_GRACE):
                await self._life.wait()
        except TimeoutError:
            self.kill("it did not stop")

    def abandon(self) -> None:
        """Kill a child whose load failed or was cancelled."""
        self._life.stopping = True
        self._gone("its load was given up")

    def dismiss(self, error: MataError) -> None:
        """Kill the child; pending requests fail with ``error``."""
        self._life.stopping, self._life.pending_error = True, error
        self._gone("it was dismissed")

    def _hung(self) -> None:
        limit = f"{round(self._watchdog.limit, 1):g} s"
        self._life.pending_error = WorkerDied(f"The model gave no answer within {limit}")
        self.kill(f"no answer within {limit}")

    def _noticed(self, message: wire.Message) -> None:
        """Handle an unsolicited message of the child."""
        if isinstance(message, wire.Loaded):
            if not self._loaded.done():
                self._loaded.set_result(message.facts)
        elif isinstance(message, wire.LoadRefused):
            self._life.stopping = True
            if not self._loaded.done():
                self._loaded.set_exception(message.failure.error())
        elif isinstance(message, wire.Late):
            self._spoil(message.id, message.job)
        elif isinstance(message, wire.Decoding):
            self._watchdog.progress()

    def _spoil(self, request: int, job: int) -> None:
        """Kill the child for a stuck image; its other requests move to the next worker."""
        self._life.mark_external_cause(WorkerReplacedError())
        self._exchange.fail(request, DecodeTimeoutError(self._decode_patience, job))
        self.kill(f"an image took over {self._decode_patience:g} s to decode")

    def _overgrown(self) -> None:
        """Kill the child for what it is processing; its other requests move to the next worker."""
        self._life.mark_external_cause(WorkerReplacedError())
        if not self._loaded.done():
            self._life.stopping = True
            self._loaded.set_exception(MemoryLimitError())
        request = self._exchange.oldest()
        if request is not None:
            self._exchange.fail(request, MemoryLimitError())
        self.kill("its memory grew over max_ram_mb")


async def _watch_memory(pid: int, limit: int, over: Callable[[], None]) -> None:
    """Call ``over()`` once a child, with all that it has started, holds more than ``limit`` bytes.

    The address space cannot be limited in place of that: a GPU's driver reserves far more than it
    uses.
    """
    while await asyncio.to_thread(_held, pid) <= limit:  # noqa: ASYNC110 - memory has no event
        await asyncio.sleep(CEILING_SECONDS)
    over()


def _held(pid: int) -> int:
    return sum(map(private_bytes, family(pid)))


def _finish(count: int, answered: Answered, reply: Reply | MataError) -> None:
    """Validate a batch's reply and pass it on."""
    answered(read_batch(reply, count))
