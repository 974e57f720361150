"""Signs of life of the nodes of a cluster.

Ray takes up to a minute to notice a node that has fallen silent. Every daemon of Ray speaks gRPC,
so it greets whoever opens HTTP/2 with it: to be greeted is the sign. It comes from the node and not
from a worker, whose model may keep the interpreter for longer than anybody would wait.
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
"""Looks in a row without a sign after which a node is lost; from the first on it is suspect."""
SURE = 0.25
"""Seconds between two looks that tell a node that lives from one that is just ending."""
HURRY = 1.0
"""Seconds that a look may take when somebody waits for what it tells."""
AVOIDED = 30.0
"""Seconds for which a node that was lost is the last choice: Ray may still believe in it."""
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""How a client opens HTTP/2, with empty settings: RFC 9113, section 3.4."""

log = logging.getLogger("mataserver.ray")


class Sign(Enum):
    """What a look has found."""

    ALIVE = "alive"
    SILENT = "silent"
    REFUSED = "refused"


async def look(host: str, port: int, seconds: float) -> Sign:
    """Knock at a daemon of Ray. One that wants TLS answers too, if with nothing but a close."""
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
    """A worker on a node."""

    def doubt(self, *, suspect: bool) -> None:
        """Learn whether the node is silent."""
        ...

    def node_lost(self, reason: str) -> None:
        """Learn that the node is lost."""
        ...


class Pulse:
    """Watches one node while there is a worker on it; ``lost()`` is called once it is lost."""

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
        """Whether no worker is watched for."""
        return not self._workers

    def add(self, worker: Watched) -> None:
        """Watch for a worker."""
        self._workers.add(worker)
        if self._task is None and not self._over:
            self._task = asyncio.get_running_loop().create_task(self._watch())

    def discard(self, worker: Watched) -> None:
        """Watch for a worker no more."""
        self._workers.discard(worker)
        if not self._workers:
            self.stop()

    def stop(self) -> None:
        """Watch no more."""
        task, self._task = self._task, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    async def is_lost(self) -> bool:
        """Tell whether the node is lost, now that a worker on it has ended."""
        for _ in range(2):
            if self._over or await look(*self._where, HURRY) is not Sign.ALIVE:
                return True
            await asyncio.sleep(SURE)
        return self._over

    async def _watch(self) -> None:
        """Look for ever. Looks are counted and no time is: this process may have stood still."""
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
    """Watches nodes; one without a sign of life for ``silence`` seconds is lost."""

    def __init__(self, silence: float) -> None:
        self._silence = silence
        self._pulses: dict[str, Pulse] = {}
        self._avoided: dict[str, float] = {}

    def pulse(self, node: Node) -> Pulse:
        """Return what watches a node."""
        for each in [key for key, watched in self._pulses.items() if watched.idle]:
            del self._pulses[each]
        if node.id not in self._pulses:
            self._pulses[node.id] = Pulse(
                node.host, node.port, self._silence, lambda: self.avoid(node)
            )
        return self._pulses[node.id]

    def avoid(self, node: Node) -> None:
        """Have a node that is lost be the last choice for ``AVOIDED`` seconds."""
        log.error("the node %s is lost", node.name)
        self._avoided[node.id] = asyncio.get_running_loop().time() + AVOIDED

    def avoided(self) -> list[str]:
        """Return the ids of the nodes that are the last choice now."""
        now = asyncio.get_running_loop().time()
        self._avoided = {node: until for node, until in self._avoided.items() if until > now}
        return list(self._avoided)

    def stop(self) -> None:
        """Watch nobody any more."""
        for watched in self._pulses.values():
            watched.stop()
