"""The model pool: which models are in memory. Policy only.

States, joined loads, reference counts, keep-alive, eviction of the least recently used under RAM
and VRAM ceilings, and back-off for workers that keep dying. Time, loader and memory probe are
arguments. What is decided by time is decided by a clock that nobody sets; Unix time is only shown.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from mataserver.serving.background import Background
from mataserver.serving.dispatch import Dispatch
from mataserver.serving.loading import Loading
from mataserver.serving.residency import Residency, stopping
from mataserver.serving.room import Room
from mataserver.serving.slots import Status

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from mataserver.engines.work import Worker
    from mataserver.library.plan import ModelPlan
    from mataserver.metrics import Metrics
    from mataserver.serving.slots import PoolPolicy, Probe, Slot


class ModelPool:
    """Loads, holds and unloads models."""

    def __init__(
        self,
        loader: Callable[[ModelPlan], Awaitable[Worker]],
        probe: Probe,
        metrics: Metrics,
        policy: PoolPolicy,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._residency = Residency(metrics, policy, clock, wall)
        self._room = Room(self._residency, probe, policy, clock)
        loading = Loading(
            *(loader, self._residency, self._room),
            metrics=metrics,
            policy=policy,
            clock=clock,
            wall=wall,
        )
        self._background = Background(clock)
        dispatch = self._dispatch = Dispatch(self._residency, loading, metrics, self._background)
        # As they are: a method of our own would be one more call for every request.
        self.hold, self.infer, self.begin = dispatch.hold, dispatch.infer, dispatch.begin
        self.generate, self.lease_worker = dispatch.generate, dispatch.lease_worker
        self.reserve, self.loaded = self._room.reserve, self._residency.loaded
        self.tell_queues = self._residency.tell_queues

    # memory

    def pin(self, name: str) -> None:
        """Never evict a model, whether it is loaded now or not, until it is unpinned."""
        self._room.pins.add(name)

    def unpin(self, name: str) -> bool:
        """Let a model be evicted again; whether it was pinned."""
        known = name in self._room.pins
        self._room.pins.discard(name)
        return known

    # what is there

    def status(self, name: str, task: str) -> Status:
        """Return a model's state at once, whatever is going on.

        A model that is in memory for another task alone (tracking) is told as that.
        """
        slot = self._residency.slots.get((name, task))
        if slot is None or (slot.worker is None and slot.loading is None):
            others = (s for s in self._residency.named(name) if s.worker is not None)
            slot = next(others, slot)
        pinned = name in self._room.pins
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
        )

    def held(self, name: str) -> int:
        """Return how many hold a model beyond a request: sessions, cameras, plugins."""
        return sum(slot.held for slot in self._residency.named(name))

    def stateful(self, plan: ModelPlan) -> bool:
        """Whether a model keeps the state of sessions, as far as one can know: if it is loaded."""
        slot = self._residency.slots.get(plan.key)
        return slot is None or slot.worker is None or slot.worker.facts.stateful

    # leaving

    async def unload(self, name: str, task: str | None = None, reason: str = "stopped") -> bool:
        """Unload a model after its active inferences, for one task or for all it is loaded for.

        Returns False when it was not loaded.
        """
        slots = [
            slot for slot in self._residency.named(name) if task in {None, slot.plan.spec.task}
        ]
        return any([await self._unload(slot, reason) for slot in slots])

    async def _unload(self, slot: Slot, reason: str) -> bool:
        if slot.loading is not None:
            await asyncio.wait([slot.loading])
        if slot.worker is None:
            return False
        await asyncio.shield(self._residency.leave(slot, reason))
        return True

    def stop_loading(self) -> None:
        """Give up the loads under way, and begin none: who waits is told that the server stops."""
        self._residency.closed.set()
        for slot in self._slots:
            if slot.loading is not None:
                slot.loading.cancel()
            self._residency.stop_timer(slot)

    def dismiss(self) -> None:
        """End every worker at once: who waits is told that the server stops."""
        self.stop_loading()
        workers = {slot.worker for slot in self._slots if slot.worker is not None}
        for worker in workers | self._residency.leaving:
            worker.dismiss(stopping())

    async def close(self) -> None:
        """Unload everything; loads under way are given up."""
        self.stop_loading()
        tasks = [self._residency.leave(slot, "shutdown") for slot in self._slots if slot.worker]
        tasks += [slot.loading for slot in self._slots if slot.loading is not None]
        tasks += [slot.leaving for slot in self._slots if slot.leaving is not None]
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def _slots(self) -> Collection[Slot]:
        return self._residency.slots.values()
