"""Autoscaling of a model's replicas by load."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from typing import TYPE_CHECKING

from mataserver.engines.replicas import Replicas
from mataserver.errors import MataError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver.config.needs import Span
    from mataserver.engines.work import Worker
    from mataserver.serving.memory_budget import MemoryBudget
    from mataserver.serving.slots import Slot

SAMPLE_SECONDS = 0.25
"""Interval in seconds at which a model's load is sampled."""

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

log = logging.getLogger("mataserver.pool")


class Autoscaler:
    """Adds and retires replicas, within the available memory."""

    def __init__(
        self, budget: MemoryBudget, load_timeout: float, clock: Callable[[], float]
    ) -> None:
        self._budget = budget
        self._load_timeout = load_timeout
        self._clock = clock

    def follow(self, slot: Slot, worker: Worker) -> None:
        """Start autoscaling a model that was just loaded, until it is unloaded."""
        if isinstance(worker, Replicas) and not slot.plan.settings.span.fixed:
            slot.autoscaling = asyncio.get_running_loop().create_task(self._follow(slot, worker))

    async def _follow(self, slot: Slot, replicas: Replicas) -> None:
        policy = ScalingPolicy(slot.plan.settings.span, self._clock())
        while slot.worker is replicas and (batcher := slot.batcher) is not None:
            count = replicas.count
            desired_count = policy.desired_count(batcher.load, count, self._clock())
            if desired_count > count:
                await self._grow(slot, replicas, policy, desired_count - count)
            elif desired_count < count:
                await self._shrink(slot, replicas, policy, count - desired_count)
            await asyncio.sleep(SAMPLE_SECONDS)

    async def _grow(self, slot: Slot, replicas: Replicas, policy: ScalingPolicy, more: int) -> None:
        each = slot.ram // replicas.count
        before = replicas.count
        started = await asyncio.gather(*(self._add(slot, replicas, each) for _ in range(more)))
        if not all(started):
            policy.record_failed_start(self._clock())
        if any(started):
            policy.record_growth(self._clock())
            log.info("%s has %d workers, before %d", _name(slot), replicas.count, before)
        await self._budget.measure(slot, replicas)

    async def _add(self, slot: Slot, replicas: Replicas, ram: int) -> bool:
        """Start one more replica; return whether that succeeded."""
        if not await self._budget.charge(slot, ram):
            log.warning("%s gets no further worker: there is no memory for it", _name(slot))
            return False
        try:
            async with asyncio.timeout(self._load_timeout):
                await replicas.grow()
        except MataError as error:
            log.error("%s gets no further worker: %s", _name(slot), error.detail)  # noqa: TRY400 - told as it is
        except TimeoutError:
            limit = self._load_timeout
            log.error("%s gets no further worker: not loaded in %g s", _name(slot), limit)  # noqa: TRY400 - told as it is
        except Exception:
            log.exception("%s gets no further worker", _name(slot))
        else:
            return True
        self._budget.credit(slot, ram)
        return False

    async def _shrink(
        self, slot: Slot, replicas: Replicas, policy: ScalingPolicy, fewer: int
    ) -> None:
        before, each = replicas.count, slot.ram // replicas.count
        ended = await asyncio.gather(*(replicas.shrink() for _ in range(fewer)))
        if any(ended):
            policy.record_shrink(self._clock())
            log.info("%s has %d workers, before %d", _name(slot), replicas.count, before)
            self._budget.credit(slot, each * sum(ended))
            await self._budget.measure(slot, replicas)


def _name(slot: Slot) -> str:
    return slot.plan.spec.name


class ScalingPolicy:
    """Computes the desired count for one model. Pure: ``now`` is any monotonic clock.

    It grows after some seconds above target, and shrinks after a minute below. If a retired replica
    is soon needed again, later ones are retired more slowly: a load between two counts causes no
    oscillation.
    """

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
