"""Heartbeats of a cluster's nodes.

Ray takes up to a minute to notice a silent node. Every Ray daemon speaks gRPC, so it answers an
HTTP/2 connection preface: that answer is the heartbeat. It comes from the node's daemon and not
from a worker, whose model may hold the interpreter lock for too long.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from mataserver import NodeDied, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from mataserver_ray.broker_messages import Node

MISSED_LIMIT = 4
"""Missed heartbeats in a row after which a node is lost; from the first one it is suspect."""
RECHECK_SECONDS = 0.25
"""Seconds between two checks that tell a live node from one that is shutting down."""
PROBE_TIMEOUT = 1.0
"""Timeout in seconds of a check that a caller waits for."""
AVOID_SECONDS = 30.0
"""Seconds for which a lost node is only a last resort: Ray may still consider it alive."""
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""The HTTP/2 connection preface with empty settings: RFC 9113, section 3.4."""

log = logging.getLogger("mataserver.ray")


class ProbeResult(Enum):
    """Outcome of a heartbeat check."""

    ALIVE = "alive"
    SILENT = "silent"
    REFUSED = "refused"


async def probe(host: str, port: int, seconds: float) -> ProbeResult:
    """Check a Ray daemon. One that requires TLS counts as alive too: it closes the connection."""
    writer = None
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(_PREFACE)
            await reader.read(1)
    except TimeoutError:
        return ProbeResult.SILENT
    except OSError:
        return ProbeResult.REFUSED
    finally:
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
    return ProbeResult.ALIVE


class MonitoredWorker(Protocol):
    """A worker on a node, as its monitor sees it."""

    def set_suspect(self, *, suspect: bool) -> None:
        """Handle a change: whether the node is silent."""

    def node_lost(self, reason: str) -> None:
        """Handle the loss of the node."""


class _Visitor:
    """What is done on a node before it has a worker: given up once the node is lost."""

    limit: asyncio.Timeout

    def set_suspect(self, *, suspect: bool) -> None:
        """Ignore a silent node: it may recover."""

    def node_lost(self, reason: str) -> None:  # noqa: ARG002 - already logged
        """End it now."""
        self.limit.reschedule(0.0)


class NodeMonitor:
    """Monitors one node while it has workers; calls ``on_lost()`` once it is lost."""

    def __init__(self, host: str, port: int, silence: float, on_lost: Callable[[], None]) -> None:
        self._where = (host, port)
        self._interval = silence / MISSED_LIMIT
        self._silence = silence
        self._on_lost = on_lost
        self._workers: set[MonitoredWorker] = set()
        self._task: asyncio.Task[None] | None = None
        self._is_lost = False

    @property
    def is_idle(self) -> bool:
        """Whether it monitors for no worker, or no more: a node may come back after its loss."""
        return self._is_lost or not self._workers

    def add(self, worker: MonitoredWorker) -> None:
        """Monitor on behalf of a worker."""
        self._workers.add(worker)
        if self._task is None and not self._is_lost:
            self._task = asyncio.get_running_loop().create_task(self._watch())

    def discard(self, worker: MonitoredWorker) -> None:
        """Stop monitoring on behalf of a worker."""
        self._workers.discard(worker)
        if not self._workers:
            self.stop()

    @contextlib.asynccontextmanager
    async def guard(self) -> AsyncIterator[None]:
        """Raise ``NodeDied`` once the node is lost: for what is done there before it has a worker.

        It replaces an ``Unavailable`` that the lost node is the reason for.
        """
        visitor = _Visitor()
        try:
            async with asyncio.timeout(None) as visitor.limit:
                self.add(visitor)
                try:
                    yield
                finally:
                    self.discard(visitor)
        except (TimeoutError, Unavailable):
            if not await self.is_lost():
                raise
            if not self._is_lost:  # found here before the next heartbeat
                self._on_lost()
            raise NodeDied from None

    def stop(self) -> None:
        """Stop monitoring."""
        task, self._task = self._task, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    async def is_lost(self) -> bool:
        """Return whether the node is lost, after one of its workers has ended."""
        for _ in range(2):
            if self._is_lost or await probe(*self._where, PROBE_TIMEOUT) is not ProbeResult.ALIVE:
                return True
            await asyncio.sleep(RECHECK_SECONDS)
        return self._is_lost

    async def _watch(self) -> None:
        """Check until the node is lost. Counts checks, not time: this process may be paused."""
        missed = refused = 0
        while missed < MISSED_LIMIT and refused < 2:
            result = await probe(*self._where, self._interval)
            missed = 0 if result is ProbeResult.ALIVE else missed + 1
            refused = refused + 1 if result is ProbeResult.REFUSED else 0
            for worker in list(self._workers):
                worker.set_suspect(suspect=bool(missed))
            if result is not ProbeResult.SILENT:
                await asyncio.sleep(RECHECK_SECONDS if refused else self._interval)
        self._is_lost = True
        self._on_lost()
        reason = "its node ended" if refused else f"its node is silent for {self._silence:g} s"
        for worker in list(self._workers):
            worker.node_lost(reason)


class NodeMonitors:
    """Monitors nodes; a node without a heartbeat for ``silence`` seconds is lost."""

    def __init__(self, silence: float) -> None:
        self._silence = silence
        self._monitors: dict[str, NodeMonitor] = {}
        self._avoided: dict[str, float] = {}

    def monitor(self, node: Node) -> NodeMonitor:
        """Return a node's monitor; drop idle ones."""
        for each in [key for key, monitor in self._monitors.items() if monitor.is_idle]:
            del self._monitors[each]
        if node.id not in self._monitors:
            self._monitors[node.id] = NodeMonitor(
                node.host, node.port, self._silence, lambda: self.avoid(node)
            )
        return self._monitors[node.id]

    def avoid(self, node: Node) -> None:
        """Make a lost node the last resort for ``AVOID_SECONDS`` seconds."""
        log.error("the node %s is lost", node.name)
        self._avoided[node.id] = asyncio.get_running_loop().time() + AVOID_SECONDS

    def avoided(self) -> list[str]:
        """Return the ids of the nodes that are a last resort now."""
        now = asyncio.get_running_loop().time()
        self._avoided = {node: until for node, until in self._avoided.items() if until > now}
        return list(self._avoided)

    def stop(self) -> None:
        """Stop all monitors."""
        for monitor in self._monitors.values():
            monitor.stop()
