"""Sequences: requests of a stateful model, which the server that began them must be sent."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver_fleet.gateway.snapshot import Target

MOST = 100_000
"""Sequences that are remembered."""
IDLE = 3600.0
"""Seconds after which a sequence that is not continued is forgotten."""


class Step(NamedTuple):
    """A request of a sequence."""

    sequence: int | str
    start: bool
    end: bool


class Pin(NamedTuple):
    """What a sequence is bound to."""

    target: Target
    version: str


class Sequences:
    """Remembers which server has which sequence of a route. ``clock`` gives seconds."""

    def __init__(self, clock: Callable[[], float], most: int = MOST) -> None:
        self._clock = clock
        self._most = most
        self._pins: OrderedDict[tuple[str, str, int | str], tuple[Pin, float]] = OrderedDict()

    def find(self, application: str, model: str, step: Step) -> Pin | None:
        """Return what a sequence that goes on is bound to; None for one that begins."""
        if step.start:
            return None
        found = self._pins.get((application, model, step.sequence))
        return found[0] if found is not None and found[1] > self._clock() else None

    def bind(self, application: str, model: str, step: Step, pin: Pin) -> None:
        """Bind a sequence, or forget it where this is its end."""
        key = (application, model, step.sequence)
        self._pins.pop(key, None)
        if step.end:
            return
        self._pins[key] = (pin, self._clock() + IDLE)
        if len(self._pins) > self._most:
            self._pins.popitem(last=False)
