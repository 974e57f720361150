"""The server's side of a worker on another machine."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mataserver.engines.worker import ProcessWorker
from mataserver.engines.worker_errors import NodeDied

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class RemoteWorker(ProcessWorker):
    """The server's side of a worker on another machine, whose memory and pid are not local.

    It is the ``asyncio.Protocol`` of a connection to a process there that calls ``run_worker``;
    ``load(assignment, kill)`` then loads the model, and ``abandon()`` ends a load that is given up.
    After its connection is lost, ``is_lost()`` returns whether its machine was lost with it.
    """

    def __init__(
        self,
        name: str,
        infer_timeout: float,
        decode_timeout: float,
        is_lost: Callable[[], Awaitable[bool]],
    ) -> None:
        super().__init__(name, infer_timeout, decode_timeout)
        self.is_suspect = False
        self._suspect_callbacks: list[Callable[[bool], None]] = []
        self.on_end(lambda: self.set_suspect(suspect=False))
        self._is_lost = is_lost
        self._loss_check: asyncio.Task[None] | None = None

    @property
    def is_alive(self) -> bool:
        """Whether it can still answer."""
        return self._loss_check is None and super().is_alive

    @property
    def pids(self) -> tuple[int, ...]:
        """Return none: the process is on another machine."""
        return ()

    async def memory(self) -> int:
        """Return the memory that the worker reported after its load, in bytes."""
        return self.report.memory

    def on_suspect(self, callback: Callable[[bool], None]) -> None:
        """Call ``callback(suspect)`` when its node falls silent, and when it recovers."""
        self._suspect_callbacks.append(callback)
        if self.is_suspect:
            callback(self.is_suspect)

    def set_suspect(self, *, suspect: bool) -> None:
        """Record whether its node is silent."""
        if suspect != self.is_suspect:
            self.is_suspect = suspect
            for callback in self._suspect_callbacks:
                callback(suspect)

    def connection_lost(self, exc: Exception | None) -> None:
        """Determine whether the node ended too, then fail everything pending."""
        if self._life.has_ended or (self._loss_check is not None and not self._life.is_stopping):
            return
        if self._life.is_stopping or self._life.pending_error is not None:
            super().connection_lost(exc)
        else:
            self._loss_check = asyncio.get_running_loop().create_task(self._check_loss())

    def node_lost(self, reason: str) -> None:
        """End the worker because its node is lost; its jobs can be retried elsewhere."""
        if not self._life.has_ended:
            self._life.mark_external_cause(NodeDied())
            self.kill(reason)

    async def _check_loss(self) -> None:
        lost = await self._is_lost()
        if self._life.has_ended:
            return
        if lost:
            self._life.mark_external_cause(NodeDied())
            self._life.reason = "its node ended"
        super().connection_lost(None)
