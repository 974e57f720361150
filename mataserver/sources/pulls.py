"""The pulls that are under way: one of a model, a few that fetch, the others in a line."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from mataserver.errors import Conflict
from mataserver.sources.messages import Waiting
from mataserver.sources.turns import Turns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from mataserver.sources.messages import Step

log = logging.getLogger("mataserver.pulls")


class Pull:
    """The pull of one model: ``place`` is its place in the line, 0 while it does not wait."""

    def __init__(self, name: str, turns: Turns, on_step: Callable[[Step], None] | None) -> None:
        self.place = 0
        self._name = name
        self._turns = turns
        self._on_step = on_step

    def tell(self, step: Step) -> None:
        """Hand on what happens."""
        if self._on_step is not None:
            self._on_step(step)

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Hold a turn, after waiting for it. Raises ``Unavailable`` where too many wait."""
        async with self._turns.taken(self._wait):
            self.place = 0
            yield

    def _wait(self, place: int) -> None:
        self.place = place
        log.info("the pull of %s waits for its turn, place %d", self._name, place)
        self.tell(Waiting(place))


class Pulls:
    """The pulls of one process."""

    def __init__(self, turns: Turns | None = None) -> None:
        self._turns = turns or Turns()
        self._under_way: dict[str, Pull] = {}

    @contextlib.contextmanager
    def begun(self, name: str, on_step: Callable[[Step], None] | None) -> Iterator[Pull]:
        """Note a pull while it runs. Raises ``Conflict`` while the same model is being pulled."""
        other = self._under_way.get(name)
        if other is not None:
            waits = f": it waits for its turn, place {other.place}" if other.place else ""
            raise Conflict(f"A pull of {name} is already in progress{waits}")
        self._under_way[name] = Pull(name, self._turns, on_step)
        try:
            yield self._under_way[name]
        finally:
            del self._under_way[name]
