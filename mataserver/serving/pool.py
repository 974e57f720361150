"""The model pool: which models are in memory. Policy only.

States, deduplicated loads, reference counts, keep-alive, eviction of the least recently used under
RAM and VRAM ceilings, and back-off for workers that keep dying. Time, loader and memory probe are
arguments. Decisions use a monotonic clock; Unix time is only for display.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from mataserver.serving.background import Background
from mataserver.serving.dispatch import Dispatch
from mataserver.serving.loading import LoadCoordinator
from mataserver.serving.memory_budget import MemoryBudget
from mataserver.serving.residency import Residency, shutdown_error
from mataserver.serving.slots import Status

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from mataserver.engines.memory import MemoryProbe
    from mataserver.engines.work import Worker
    from mataserver.library.plans import ModelPlan
    from mataserver.metrics import Metrics
    from mataserver.serving.slots import PoolPolicy, Slot


_CANCELLING = frozenset({"stopped", "removed"})
"""Reasons to unload a model that nobody is to wait for any more."""


class ModelPool:
    """Loads, holds and unloads models."""

    def __init__(
        self,
        loader: Callable[[ModelPlan], Awaitable[Worker]],
        probe: MemoryProbe,
        metrics: Metrics,
        policy: PoolPolicy,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._residency = Residency(metrics, policy, clock, wall)
        self._budget = MemoryBudget(self._residency, probe, policy, clock)
        loads = LoadCoordinator(
            *(loader, self._residency, self._budget),
            metrics=metrics,
            policy=policy,
            clock=clock,
            wall=wall,
        )
        self._background = Background(clock)
        dispatch = self._dispatch = Dispatch(self._residency, loads, metrics, self._background)
        # Bound directly: a wrapper method would add a call to every request.
        self.hold, self.infer, self.begin = dispatch.hold, dispatch.infer, dispatch.begin
        self.generate, self.lease_worker = dispatch.generate, dispatch.lease_worker
        self.reserve, self.loaded = self._budget.reserve, self._residency.loaded
        self.set_queue_gauges = self._residency.set_queue_gauges

    # memory

    def pin(self, name: str) -> None:
        """Exempt a model from eviction, loaded or not, until it is unpinned."""
        self._budget.pins.add(name)

    def unpin(self, name: str) -> bool:
        """Make a model evictable again; return whether it was pinned."""
        known = name in self._budget.pins
        self._budget.pins.discard(name)
        return known

    # state

    def status(self, name: str, task: str) -> Status:
        """Return a model's state without waiting.

        A model that is in memory only for another task (tracking) is reported as loaded for it.
        """
        slot = self._residency.slots.get((name, task))
        if slot is None or (slot.worker is None and slot.loading is None):
            others = (s for s in self._residency.slots_of(name) if s.worker is not None)
            slot = next(others, slot)
        pinned = name in self._budget.pins
        if slot is None:
            return Status(pinned=pinned)
        loaded = slot.worker is not None
        return Status(
            slot.state,
            slot.ram + slot.vram if loaded else None,
            slot.loaded_at if loaded else None,
            slot.last_used,
            slot.error,
            pinned,
            (round(self._clock() - slot.load_begun, 1), slot.load_phase) if slot.loading else None,
        )

    def count_holds(self, name: str) -> int:
        """Return the number of holders that outlive a request: sessions, cameras, plugins."""
        return sum(slot.holds for slot in self._residency.slots_of(name))

    def stateful(self, plan: ModelPlan) -> bool:
        """Whether a model keeps sessions' state; True while it is not loaded, so not known."""
        slot = self._residency.slots.get(plan.key)
        return slot is None or slot.worker is None or slot.worker.report.stateful

    # unloading

    async def unload(
        self,
        name: str,
        task: str | None = None,
        reason: str = "stopped",
        *,
        only_loading: bool = False,
    ) -> bool:
        """Unload a model after its active inferences, for one task or for all.

        A load in progress is cancelled if the model was stopped or removed, else awaited. Returns
        False if it was not loaded. With ``only_loading`` a model that is loaded is kept.
        """
        slots = [
            slot for slot in self._residency.slots_of(name) if task in {None, slot.plan.spec.task}
        ]
        return any([await self._unload(slot, reason, only_loading=only_loading) for slot in slots])

    async def _unload(self, slot: Slot, reason: str, *, only_loading: bool) -> bool:
        cancelled = False
        if slot.loading is not None:
            cancelled = reason in _CANCELLING and _cancel(slot.loading)
            await asyncio.wait([slot.loading])
        if slot.worker is None or only_loading:
            return cancelled and slot.worker is None
        await asyncio.shield(self._residency.unload(slot, reason))
        return True

    def cancel_loads(self) -> None:
        """Cancel the loads in progress and accept no more; waiting callers get a shutdown error."""
        self._residency.closed.set()
        for slot in self._slots:
            if slot.loading is not None:
                _cancel(slot.loading)
            self._residency.stop_timer(slot)

    def dismiss(self) -> None:
        """Terminate every worker; pending requests get a shutdown error."""
        self.cancel_loads()
        workers = {slot.worker for slot in self._slots if slot.worker is not None}
        for worker in workers | self._residency.closing:
            worker.terminate(shutdown_error())

    async def close(self) -> None:
        """Cancel the loads in progress and unload every model."""
        self.cancel_loads()
        tasks = [self._residency.unload(slot, "shutdown") for slot in self._slots if slot.worker]
        tasks += [slot.loading for slot in self._slots if slot.loading is not None]
        tasks += [slot.unloading for slot in self._slots if slot.unloading is not None]
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def _slots(self) -> Collection[Slot]:
        return self._residency.slots.values()


def _cancel(load: asyncio.Task[None]) -> bool:
    """Cancel a load once: another time would interrupt its clean-up. Return whether it ends."""
    return load.cancelling() > 0 or load.cancel()
