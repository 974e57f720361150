"""How long a model that could not be brought to a Triton waits for its next try."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

FIRST, LONGEST = 5.0, 60.0
"""Seconds of the first wait and of the longest; each is twice the one before."""


class _RetryDelay(NamedTuple):
    """A wait: until when, how long it is, of which generation, and whether a try broke off."""

    until: float
    seconds: float
    generation: int
    interrupted: bool


class RetryDelays:
    """The waits of one Triton's models. ``clock`` gives seconds, and is never set.

    A wait belongs to a generation of a placement: a new request is tried immediately.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._delays: dict[int, _RetryDelay] = {}

    def start(self, model: int, generation: int, *, interrupted: bool) -> float:
        """Have a model wait; return for how many seconds.

        broken: the try broke off, as by the network, and nothing that was sent is at fault: the
                first time it is retried immediately.
        """
        before, seconds = self._delays.get(model), 0.0 if interrupted else FIRST
        if before is not None and before.generation == generation:
            seconds = min(LONGEST, 2 * before.seconds or FIRST)
        self._delays[model] = _RetryDelay(self._clock() + seconds, seconds, generation, interrupted)
        return seconds

    def is_waiting(self, model: int, generation: int) -> bool:
        """Whether a model is still waiting."""
        delay = self._delays.get(model)
        if delay is None or delay.generation != generation:
            return False
        return delay.until > self._clock()

    def clear(self, model: int) -> None:
        """Forget what a model waited for: it is as it is wanted."""
        self._delays.pop(model, None)

    def clear_refused(self) -> None:
        """Have nothing wait any more that the Triton refused: it was away, perhaps mended.

        Interrupted tries keep waiting: one may be what the Triton died of.
        """
        self._delays = {model: delay for model, delay in self._delays.items() if delay.interrupted}
