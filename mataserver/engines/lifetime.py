"""State of a worker process's end: whether it was requested, why, and which callbacks run."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from mataserver.engines.worker_errors import Death, WorkerDied

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver.errors import MataError

log = logging.getLogger("mataserver.process")


class Lifetime:
    """The lifecycle of one worker.

    has_ended:          it is over.
    is_stopping:        the server requested its end, which is therefore no death.
    has_external_cause: the cause of its end is not the model.
    pending_error:      the error for pending requests, if not one built from ``reason``.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._on_death: list[Callable[[Death], None]] = []
        self._on_end: list[Callable[[], None]] = []
        # Plain attributes, not properties: every request checks several times that its worker
        # lives.
        self.has_ended = False
        self.is_stopping = False
        self.has_external_cause = False
        self.pending_error: MataError | None = None
        self.reason = "the worker process ended"

    @property
    def error(self) -> MataError:
        """The error for requests that are pending at its end."""
        return self.pending_error or WorkerDied(f"The model's worker died: {self.reason}")

    def mark_external_cause(self, pending_error: MataError) -> None:
        """Mark the coming end as not the model's fault, and set the error of pending requests."""
        self.has_external_cause, self.pending_error = True, pending_error

    def on_death(self, callback: Callable[[Death], None]) -> None:
        """Call ``callback(death)`` if the worker exits unexpectedly."""
        self._on_death.append(callback)

    def on_end(self, callback: Callable[[], None]) -> None:
        """Call ``callback()`` when the worker has ended, for whatever reason."""
        if self.has_ended:
            callback()
        else:
            self._on_end.append(callback)

    async def wait(self) -> None:
        """Wait for the end."""
        await asyncio.shield(self._end)

    def end(self) -> None:
        """Mark the worker as ended, and wake ``wait``."""
        self.has_ended = True
        self._end.set_result(None)

    def run_callbacks(self) -> None:
        """Run the callbacks; log a death as an error only if the model is to blame."""
        if not self.is_stopping:
            death = Death(self.reason, is_model_fault=not self.has_external_cause)
            level = logging.ERROR if death.is_model_fault else logging.WARNING
            log.log(level, "worker of %s died: %s", self._name, death.reason)
            for died in self._on_death:
                died(death)
        for ended in self._on_end:
            ended()
