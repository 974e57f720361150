"""The process engine: a child process per loaded model, forked from a zygote per plugin.

A crash, a timeout or a memory blow-up is confined to the child: its requests fail immediately, and
other models are unaffected. Unloading ends the child, which returns all its memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import TYPE_CHECKING

from mataserver.engines import arena
from mataserver.engines.worker import ProcessWorker
from mataserver.engines.zygote_handle import ZygoteHandle

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mataserver.engines.work import Assignment, Placement

LINGER_SECONDS = 30.0
"""Seconds that a zygote without children is kept: its imports take long."""


async def _fork(worker: ProcessWorker, zygote: ZygoteHandle) -> int:
    """Fork the child of ``worker`` from the zygote; return its pid."""
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    with theirs, _shared() as descriptors:
        worker.use_memory(arena.ServerArena(descriptors[0]) if descriptors else None)
        await loop.create_unix_connection(lambda: worker, sock=ours)
        return await zygote.fork([theirs.fileno(), *descriptors], worker.on_exit)


@contextlib.contextmanager
def _shared() -> Iterator[list[int]]:
    """Yield a descriptor of new shared memory, if any; close it once the child has its own."""
    descriptor = arena.create()
    try:
        yield [] if descriptor is None else [descriptor]
    finally:
        if descriptor is not None:
            os.close(descriptor)


class ProcessEngine:
    """Starts a child per model, from a zygote per plugin, which lingers for a while."""

    def __init__(
        self,
        *,
        log_level: str = "info",
        log_format: str = "text",
        inherit: Sequence[str] = (),
    ) -> None:
        self._inherit = inherit
        self._logging = (log_level, log_format)
        self._zygotes: dict[Placement, ZygoteHandle] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def start(self, assignment: Assignment, placement: Placement) -> ProcessWorker:
        """Fork a child and load the model. Raises a ``MataError`` if that fails."""
        zygote = self._zygote(placement)
        worker = ProcessWorker(
            assignment.spec.name, assignment.infer_timeout, assignment.context.decode_timeout
        )
        try:
            pid = await _fork(worker, zygote)
            worker.limit_memory(pid, assignment.max_ram)
            await worker.load(assignment, lambda: zygote.kill(pid))
        except BaseException:
            worker.abandon()
            self._release(placement, zygote)
            raise
        worker.on_end(lambda: self._release(placement, zygote))
        return worker

    async def close(self) -> None:
        """End every zygote, and thereby every child."""
        zygotes, self._zygotes = list(self._zygotes.values()), {}
        for zygote in zygotes:
            if zygote.linger_timer is not None:
                zygote.linger_timer.cancel()
        await asyncio.gather(*(zygote.close() for zygote in zygotes), *self._closing)

    def _zygote(self, placement: Placement) -> ZygoteHandle:
        zygote = self._zygotes.get(placement)
        if zygote is None or not zygote.is_alive:
            zygote = ZygoteHandle(placement, *self._logging, self._inherit)
            zygote.start()
            self._zygotes[placement] = zygote
        if zygote.linger_timer is not None:
            zygote.linger_timer.cancel()
            zygote.linger_timer = None
        return zygote

    def _release(self, placement: Placement, zygote: ZygoteHandle) -> None:
        """Schedule the end of a zygote without children, to free its memory."""
        if zygote.linger_timer is not None:
            zygote.linger_timer.cancel()
        loop = asyncio.get_running_loop()
        zygote.linger_timer = loop.call_later(LINGER_SECONDS, self._retire, placement, zygote)

    def _retire(self, placement: Placement, zygote: ZygoteHandle) -> None:
        if not zygote.is_idle:  # a child that just ended may not be reaped yet
            self._release(placement, zygote)
            return
        if self._zygotes.get(placement) is zygote:
            del self._zygotes[placement]
        task = asyncio.get_running_loop().create_task(zygote.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
