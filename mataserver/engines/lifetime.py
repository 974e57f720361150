"""How the life of a worker process ends: whether it was asked to, why, and who hears of it."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from mataserver.engines.accidents import Death, WorkerDied

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver.errors import MataError

log = logging.getLogger("mataserver.process")


class Lifetime:
    """The life of one worker.

    ended:    it is over.
    stopping: it was told to end, so that its end is no death.
    excused:  its death is not the model's fault.
    parting:  what whoever waits is told, if that is not ``reason``.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._on_death: list[Callable[[Death], None]] = []
        self._on_end: list[Callable[[], None]] = []
        # Plain attributes: each request asks several times whether its worker is alive.
        self.ended = False
        self.stopping = False
        self.excused = False
        self.parting: MataError | None = None
        self.reason = "the worker process ended"

    @property
    def error(self) -> MataError:
        """What whoever waits for the worker is told at its end."""
        return self.parting or WorkerDied(f"The model's worker died: {self.reason}")

    def excuse(self, parting: MataError) -> None:
        """Have it end for what is not the model's doing."""
        self.excused, self.parting = True, parting

    def on_death(self, callback: Callable[[Death], None]) -> None:
        """Have ``callback(death)`` called when it ends by itself."""
        self._on_death.append(callback)

    def on_end(self, callback: Callable[[], None]) -> None:
        """Have ``callback()`` called when it is over, for whatever reason."""
        if self.ended:
            callback()
        else:
            self._on_end.append(callback)

    async def wait(self) -> None:
        """Wait for the end."""
        await asyncio.shield(self._end)

    def end(self) -> None:
        """Note that it is over."""
        self.ended = True
        self._end.set_result(None)

    def announce(self) -> None:
        """Call who asked to know; an image's doing is no error of the model's."""
        if not self.stopping:
            death = Death(self.reason, blamed=not self.excused)
            level = logging.ERROR if death.blamed else logging.WARNING
            log.log(level, "worker of %s died: %s", self._name, death.reason)
            for died in self._on_death:
                died(death)
        for ended in self._on_end:
            ended()
