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
MAX_SHRINK_DELAY = 16 * DOWN_AFTER
"""Upper bound of the delay before shrinking, in seconds."""
AVERAGING_SECONDS = 1.0
"""Averaging window of the load in seconds: short bursts are ignored."""
START_RETRY_SECONDS = 30.0
"""Seconds after which a failed start is retried."""
TOLERANCE = 1.1
"""Tolerance above the target before growing: the load fluctuates."""
MAX_GROWTH_FACTOR = 2
"""Maximum growth factor per step: a queue that built up while there were too few replicas says
little about how many are enough."""


class ScalingPolicy:
    """Computes the desired count for one model; ``now`` is any monotonic clock."""

    def __init__(self, span: Span, now: float) -> None:
        self._span = span
        self._samples: deque[tuple[float, float]] = deque()
        self._dips: deque[tuple[float, float]] = deque()
        """Rising levels by time: the first is the minimum of the last ``UP_AFTER`` seconds."""
        self._peaks: deque[tuple[float, float]] = deque()
        """Falling levels by time: the first is the maximum of the last ``_shrink_delay`` s."""
        self._since = now
        self._not_before = now
        self._shrink_delay = DOWN_AFTER
        self._shrunk_at: float | None = None

    def desired_count(self, load: float, count: int, now: float) -> int:
        """Return the desired count, given ``count`` replicas and ``load`` images in the system."""
        self._add_sample(load, now)
        span, steady = self._span, now - self._since
        if steady >= UP_AFTER and now >= self._not_before:
            least = math.ceil(self._dips[0][1] / (TOLERANCE * span.target))
            wanted = min(span.max, least, MAX_GROWTH_FACTOR * count)
            if wanted > count:
                return wanted
        if steady >= self._shrink_delay:
            wanted = max(span.first, math.ceil(self._peaks[0][1] / span.target))
            if wanted < count:
                return count - max(1, (count - wanted) // 2)
        return count

    def record_growth(self, now: float) -> None:
        """Record that replicas were added."""
        if self._shrunk_at is not None:
            soon = now - self._shrunk_at < 2 * self._shrink_delay
            self._shrink_delay = (
                min(MAX_SHRINK_DELAY, 2 * self._shrink_delay) if soon else DOWN_AFTER
            )
        self._shrunk_at = None
        self._reset(now)

    def record_shrink(self, now: float) -> None:
        """Record that replicas were retired."""
        self._shrunk_at = now
        self._reset(now)

    def record_failed_start(self, now: float) -> None:
        """Record that a replica could not be started."""
        self._not_before = now + START_RETRY_SECONDS

    def _reset(self, now: float) -> None:
        """Discard the history, which says little about another count."""
        self._since = now
        self._dips.clear()
        self._peaks.clear()

    def _add_sample(self, load: float, now: float) -> None:
        self._samples.append((now, load))
        _drop_before(self._samples, now - AVERAGING_SECONDS)
        level = sum(each for _, each in self._samples) / len(self._samples)
        while self._dips and self._dips[-1][1] >= level:
            self._dips.pop()
        while self._peaks and self._peaks[-1][1] <= level:
            self._peaks.pop()
        self._dips.append((now, level))
        self._peaks.append((now, level))
        _drop_before(self._dips, now - UP_AFTER)
        _drop_before(self._peaks, now - self._shrink_delay)


def _drop_before(levels: deque[tuple[float, float]], before: float) -> None:
    while levels[0][0] < before:
        levels.popleft()
