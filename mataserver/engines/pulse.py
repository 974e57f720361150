"""Signs of life of the nodes of a cluster.

Ray takes up to a minute to notice a node that has fallen silent. Every daemon of Ray speaks gRPC,
so it greets whoever opens HTTP/2 with it: to be greeted is the sign. It comes from the node and not
from a worker, whose model may keep the interpreter for longer than anybody would wait.
"""

from __future__ import annotations

import asyncio
import contextlib
from enum import Enum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

LOOKS = 4
"""Looks in a row without a sign after which a node is lost; from the first on it is suspect."""
SURE = 0.25
"""Seconds between two looks that tell a node that lives from one that is just ending."""
HURRY = 1.0
"""Seconds that a look may take when somebody waits for what it tells."""
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""How a client opens HTTP/2, with empty settings: RFC 9113, section 3.4."""


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
