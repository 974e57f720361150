"""How long a server that has answered is waited for when it does not."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, TypeVar

from mataserver_client.errors import MataError
from mataserver_client.failures import PASSING_STATUSES, BadAnswer, ClosedMeanwhile

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

PATIENCE_SECONDS = 120.0
"""How long a server that answered before may be silent: a restart takes less."""
PAUSE_SECONDS = 1.0
_PASSING = {*PASSING_STATUSES, 0, 423, 460}
"""No answer, an upload that another server handles still, a part that was damaged on its way."""

T = TypeVar("T")


class Patience:
    """The time that is left to wait; it begins anew with each answer."""

    def __init__(self, *, answered: bool = True) -> None:
        self._answered = answered
        self._until: float | None = None

    def begin(self) -> None:
        """Begin anew: it answered."""
        self._answered, self._until = True, None

    async def pause(self, failure: MataError) -> None:
        """Wait before the next try, or raise ``failure`` where there is none."""
        now = time.monotonic()
        if self._until is None:
            self._until = now + PATIENCE_SECONDS
        lasting = isinstance(failure, (BadAnswer, ClosedMeanwhile))
        passing = failure.status in _PASSING and not lasting
        if not passing or not self._answered or now > self._until:
            raise failure
        await asyncio.sleep(PAUSE_SECONDS)

    async def repeat(self, step: Callable[[], Awaitable[T]]) -> T:
        """Do what has no effect if it is done twice, until it is answered."""
        self.begin()
        while True:
            try:
                return await step()
            except MataError as error:
                await self.pause(error)
