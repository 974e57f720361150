"""Autoscaling policy: the number of replicas for a load. Pure: time is an argument.

It grows after some seconds above target, and shrinks after a minute below. If a retired replica is
soon needed again, later ones are retired more slowly: a load between two counts causes no
oscillation.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mataserver.config.span import Span

UP_AFTER, DOWN_AFTER = 3.0, 60.0
"""Seconds for which the load must exceed the target, or fall below, before a change."""
MOST_PATIENCE = 16 * DOWN_AFTER
"""Upper bound of the delay before shrinking, in seconds."""
SMOOTH = 1.0
"""Averaging window of the load in seconds: short bursts are ignored."""
REFUSED = 30.0
"""Seconds after which a failed start is retried."""
OVER = 1.1
"""Tolerance above the target before growing: the load fluctuates."""
FACTOR = 2
"""Maximum growth factor per step: a queue that built up while there were too few replicas says
little about how many are enough."""


class Scaler:
    """Computes the desired count for one model; ``now`` is any monotonic clock."""

    def __init__(self, span: Span, now: float) -> None:
        self._span = span
        self._samples: deque[tuple[float, float]] = deque()
        self._dips: deque[tuple[float, float]] = deque()
        """Rising levels by time: the first is the minimum of the last ``UP_AFTER`` seconds."""
        self._peaks: deque[tuple[float, float]] = deque()
        """Falling levels by time: the first is the maximum of the last ``_patience`` seconds."""
        self._since = now
        self._not_before = now
        self._patience = DOWN_AFTER
        self._given_up: float | None = None

    def wish(self, load: float, count: int, now: float) -> int:
        """Return the desired count, given ``count`` replicas and ``load`` images in the system."""
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
        """Record that replicas were added."""
        if self._given_up is not None:
            soon = now - self._given_up < 2 * self._patience
            self._patience = min(MOST_PATIENCE, 2 * self._patience) if soon else DOWN_AFTER
        self._given_up = None
        self._begin(now)

    def shrunk(self, now: float) -> None:
        """Record that replicas were retired."""
        self._given_up = now
        self._begin(now)

    def refused(self, now: float) -> None:
        """Record that a replica could not be started."""
        self._not_before = now + REFUSED

    def _begin(self, now: float) -> None:
        """Discard the history, which says little about another count."""
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
