"""How many replicas a model is to have, from what it is asked. Policy only: time is an argument.

More after some seconds of more work than they should have, fewer after a minute of less. What was
given up and soon wanted back is given up more slowly from then on: a load between two counts does
not have them swing.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mataserver.config.span import Span

UP_AFTER, DOWN_AFTER = 3.0, 60.0
"""Seconds for which the load must ask for more replicas, or for fewer."""
MOST_PATIENCE = 16 * DOWN_AFTER
"""Seconds that a replica is kept at most, where giving one up was soon regretted."""
SMOOTH = 1.0
"""Seconds over which the load is averaged: a burst that is over in a moment asks for nothing."""
REFUSED = 30.0
"""Seconds after which a replica that could not be started is tried again."""
OVER = 1.1
"""How many times the target the load must be before there are to be more: it trembles."""
FACTOR = 2
"""How many times as many there are at most after one step: a queue that grew while there were too
few tells little of how many are enough."""


class Scaler:
    """Wishes a count for one model; ``now`` is any clock that only goes forward."""

    def __init__(self, span: Span, now: float) -> None:
        self._span = span
        self._samples: deque[tuple[float, float]] = deque()
        self._dips: deque[tuple[float, float]] = deque()
        """Levels that rise, by time: the first is the least of the last ``UP_AFTER`` seconds."""
        self._peaks: deque[tuple[float, float]] = deque()
        """Levels that fall, by time: the first is the most of the last ``_patience`` seconds."""
        self._since = now
        self._not_before = now
        self._patience = DOWN_AFTER
        self._given_up: float | None = None

    def wish(self, load: float, count: int, now: float) -> int:
        """Return how many there should be of ``count``, with ``load`` images at work or waiting."""
        self._note(load, now)
        span, steady = self._span, now - self._since
        if steady >= UP_AFTER and now >= self._not_before:
            least = math.ceil(self._dips[0][1] / (OVER * span.target))
            wanted = min(span.max, least, FACTOR * count)
            if wanted > count:
                return wanted
        if steady >= self._patience:
            wanted = max(span.first, math.ceil(self._peaks[0][1] / span.target))
            if wanted < count:
                return count - max(1, (count - wanted) // 2)
        return count

    def grown(self, now: float) -> None:
        """Note that there are more now."""
        if self._given_up is not None:
            soon = now - self._given_up < 2 * self._patience
            self._patience = min(MOST_PATIENCE, 2 * self._patience) if soon else DOWN_AFTER
        self._given_up = None
        self._begin(now)

    def shrunk(self, now: float) -> None:
        """Note that there are fewer now."""
        self._given_up = now
        self._begin(now)

    def refused(self, now: float) -> None:
        """Note that one could not be started."""
        self._not_before = now + REFUSED

    def _begin(self, now: float) -> None:
        """Look anew: what was before says little of how it is with another count."""
        self._since = now
        self._dips.clear()
        self._peaks.clear()

    def _note(self, load: float, now: float) -> None:
        self._samples.append((now, load))
        _forget(self._samples, now - SMOOTH)
        level = sum(each for _, each in self._samples) / len(self._samples)
        while self._dips and self._dips[-1][1] >= level:
            self._dips.pop()
        while self._peaks and self._peaks[-1][1] <= level:
            self._peaks.pop()
        self._dips.append((now, level))
        self._peaks.append((now, level))
        _forget(self._dips, now - UP_AFTER)
        _forget(self._peaks, now - self._patience)


def _forget(levels: deque[tuple[float, float]], before: float) -> None:
    while levels[0][0] < before:
        levels.popleft()
