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

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver.engines.placing import Node

LOOKS = 4
"""Missed heartbeats in a row after which a node is lost; from the first one it is suspect."""
SURE = 0.25
"""Seconds between two checks that tell a live node from one that is shutting down."""
HURRY = 1.0
"""Timeout in seconds of a check that a caller waits for."""
AVOIDED = 30.0
"""Seconds for which a lost node is only a last resort: Ray may still consider it alive."""
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""The HTTP/2 connection preface with empty settings: RFC 9113, section 3.4."""

log = logging.getLogger("mataserver.ray")


class Sign(Enum):
    """Outcome of a heartbeat check."""

    ALIVE = "alive"
    SILENT = "silent"
    REFUSED = "refused"


async def look(host: str, port: int, seconds: float) -> Sign:
    """Check a Ray daemon. One that requires TLS counts as alive too: it closes the connection."""
    writer = None
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(_PREFACE)
            await reader.read(1)
    except TimeoutError:
        return Sign.SILENT
    except OSError:
        return Sign.REFUSED
    finally:
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
    return Sign.ALIVE


class Watched(Protocol):
    """A worker on a node, as its monitor sees it."""

    def doubt(self, *, suspect: bool) -> None:
        """Handle a change: whether the node is silent."""
        ...

    def node_lost(self, reason: str) -> None:
        """Handle the loss of the node."""
        ...


class Pulse:
    """Monitors one node while it has workers; calls ``lost()`` once it is lost."""

    def __init__(self, host: str, port: int, silence: float, lost: Callable[[], None]) -> None:
        self._where = (host, port)
        self._pause = silence / LOOKS
        self._silence = silence
        self._lost = lost
        self._workers: set[Watched] = set()
        self._task: asyncio.Task[None] | None = None
        self._over = False

    @property
    def idle(self) -> bool:
        """Whether it monitors for no worker."""
        return not self._workers

    def add(self, worker: Watched) -> None:
        """Monitor on behalf of a worker."""
        self._workers.add(worker)
        if self._task is None and not self._over:
            self._task = asyncio.get_running_loop().create_task(self._watch())

    def discard(self, worker: Watched) -> None:
        """Stop monitoring on behalf of a worker."""
        self._workers.discard(worker)
        if not self._workers:
            self.stop()

    def stop(self) -> None:
        """Stop monitoring."""
        task, self._task = self._task, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    async def is_lost(self) -> bool:
        """Return whether the node is lost, after one of its workers has ended."""
        for _ in range(2):
            if self._over or await look(*self._where, HURRY) is not Sign.ALIVE:
                return True
            await asyncio.sleep(SURE)
        return self._over

    async def _watch(self) -> None:
        """Check until the node is lost. Counts checks, not time: this process may be paused."""
        without = refused = 0
        while without < LOOKS and refused < 2:
            sign = await look(*self._where, self._pause)
            without = 0 if sign is Sign.ALIVE else without + 1
            refused = refused + 1 if sign is Sign.REFUSED else 0
            for worker in list(self._workers):
                worker.doubt(suspect=bool(without))
            if sign is not Sign.SILENT:
                await asyncio.sleep(SURE if refused else self._pause)
        self._over = True
        self._lost()
        reason = "its node ended" if refused else f"its node is silent for {self._silence:g} s"
        for worker in list(self._workers):
            worker.node_lost(reason)


class NodeWatch:
    """Monitors nodes; a node without a heartbeat for ``silence`` seconds is lost."""

    def __init__(self, silence: float) -> None:
        self._silence = silence
        self._pulses: dict[str, Pulse] = {}
        self._avoided: dict[str, float] = {}

    def pulse(self, node: Node) -> Pulse:
        """Return a node's monitor; drop idle ones."""
        for each in [key for key, watched in self._pulses.items() if watched.idle]:
            del self._pulses[each]
        if node.id not in self._pulses:
            self._pulses[node.id] = Pulse(
                node.host, node.port, self._silence, lambda: self.avoid(node)
            )
        return self._pulses[node.id]

    def avoid(self, node: Node) -> None:
        """Make a lost node the last resort for ``AVOIDED`` seconds."""
        log.error("the node %s is lost", node.name)
        self._avoided[node.id] = asyncio.get_running_loop().time() + AVOIDED

    def avoided(self) -> list[str]:
        """Return the ids of the nodes that are a last resort now."""
        now = asyncio.get_running_loop().time()
        self._avoided = {node: until for node, until in self._avoided.items() if until > now}
        return list(self._avoided)

    def stop(self) -> None:
        """Stop all monitors."""
        for watched in self._pulses.values():
            watched.stop()
