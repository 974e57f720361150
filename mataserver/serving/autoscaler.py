"""Autoscaling of a model's replicas by load."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from mataserver.engines.replicas import Replicas
from mataserver.errors import MataError
from mataserver.serving.scaling import ScalingPolicy

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver.engines.work import Worker
    from mataserver.serving.memory_budget import MemoryBudget
    from mataserver.serving.slots import Slot

SAMPLE_SECONDS = 0.25
"""Interval in seconds at which a model's load is sampled."""

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
