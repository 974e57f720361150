"""Memory for models: eviction under RAM and VRAM ceilings."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from mataserver.errors import OutOfMemory, Unavailable
from mataserver.plugin_ends import ends_logged
from mataserver.serving.residency import RECHECK_SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from mataserver.engines.memory import Gpu, MemoryProbe
    from mataserver.engines.work import Worker
    from mataserver.serving.residency import Residency
    from mataserver.serving.slots import PoolPolicy, Slot

log = logging.getLogger("mataserver.pool")


class MemoryBudget:
    """The memory budget; ``pins`` are the names of models exempt from eviction."""

    def __init__(
        self,
        residency: Residency,
        probe: MemoryProbe,
        policy: PoolPolicy,
        clock: Callable[[], float],
    ) -> None:
        self._residency = residency
        self._probe = probe
        self._policy = policy
        self._clock = clock
        self._reserved = 0
        self._lock = asyncio.Lock()
        self.pins: set[str] = set()

    @contextlib.asynccontextmanager
    async def reserve(self, size: int) -> AsyncIterator[None]:
        """Reserve memory, in bytes, for a process other than a model until the context ends.

        Evicts idle models if necessary. Raises ``OutOfMemory`` if it does not fit now.
        """
        if await self._evict_for(None, size):
            raise OutOfMemory("Not enough memory now")
        try:
            yield
        finally:
            self._reserved -= size

    async def charge(self, slot: Slot, ram: int) -> bool:
        """Charge more bytes to a loaded model; return False if they are not free.

        Nothing is evicted for an additional replica: another model in use is worth more.
        """
        if self._policy.is_remote(slot):
            return True
        async with self._lock:
            if self._shortage(slot.ram + ram, slot, []):
                return False
            slot.ram += ram
            return True

    def credit(self, slot: Slot, ram: int) -> None:
        """Credit bytes to a model: a replica has ended, or failed to start."""
        if not self._policy.is_remote(slot):
            slot.ram = max(0, slot.ram - ram)

    async def measure(self, slot: Slot, worker: Worker) -> None:
        """Measure a model's memory, as far as possible."""
        name = slot.plan.spec.name
        with ends_logged(log, "the memory of %s is unknown", name):  # an engine may be a plugin's
            slot.ram = await worker.memory() or slot.ram
        slot.vram = sum(map(self._probe.vram_of, worker.pids))
        self._residency.set_memory_gauge(name)

    async def make_room(self, slot: Slot) -> None:
        """Evict models until this one fits.

        Raises ``OutOfMemory`` if it cannot, or not within the time of a load.
        """
        if self._policy.is_remote(slot):
            return
        need = slot.ram or slot.plan.estimate
        try:
            async with asyncio.timeout(self._policy.load_timeout):
                wait = await self._evict_for(slot, need)
                while wait:
                    await asyncio.sleep(wait)  # without the lock: others that fit must not wait
                    wait = await self._evict_for(slot, need)
        except TimeoutError:
            raise _out_of_memory(slot) from None

    async def _evict_for(self, newcomer: Slot | None, need: int) -> float:
        """Evict what is old enough; return the seconds until more may go, 0 once all fits.

        ``need`` bytes are then charged to ``newcomer``, or counted as reserved if that is None.
        """
        async with self._lock:
            if self._shortage(need, newcomer, self._evictable() + self._leaving()):
                raise _out_of_memory(newcomer)
            while shortage := self._shortage(need, newcomer, []):
                candidates = [s for s in self._evictable() if shortage == "ram" or s.vram]
                victim = self._victim(candidates)
                waits = list(map(self._age_left, candidates))
                if self._leaving():
                    waits.append(RECHECK_SECONDS)
                if victim is not None:
                    # Shielded: it is not half unloaded when who waits for the room goes away.
                    await asyncio.shield(self._residency.unload(victim, "evicted"))
                elif waits:
                    return max(0.01, min(waits))
                else:
                    raise _out_of_memory(newcomer)
            if newcomer is None:
                self._reserved += need
            else:
                newcomer.ram = need
            return 0.0

    def _shortage(self, need: int, newcomer: Slot | None, without: list[Slot]) -> str:
        """Return which memory falls short, "ram" or "vram" or "", if ``without`` were evicted."""
        others = [
            each
            for each in self._residency.slots.values()
            if each is not newcomer
            and each not in without
            and (each.worker or each.loading or each.is_leaving)
            and not self._policy.is_remote(each)
        ]
        held = self._probe.own() + self._reserved + sum(each.ram for each in others)
        if held + need > self._policy.ram_fraction * self._probe.ram_total():
            return "ram"
        if newcomer is None:
            return ""
        gpu = self._gpu(newcomer)
        if gpu is None:
            return ""
        coming = sum(s.vram or s.ram for s in others if s.loading and s.plan.uses_gpu)
        used = gpu.used + coming - sum(each.vram for each in without)
        wanted = newcomer.vram or need
        return "vram" if used + wanted > self._policy.vram_fraction * gpu.total else ""

    def _gpu(self, slot: Slot) -> Gpu | None:
        """Return a model's GPU, or None. Raises ``Unavailable`` if it does not exist."""
        device = slot.plan.settings.device or self._policy.device
        if device == "cpu" or not slot.plan.uses_gpu:
            return None
        gpus = self._probe.gpus()
        index = int(device.partition(":")[2] or 0)
        if index >= len(gpus):
            if device == "auto" or not gpus:
                return None  # without a driver to query, the backend decides whether it can run
            raise Unavailable(f"There is no GPU {index}")
        return gpus[index]

    def _leaving(self) -> list[Slot]:
        return [slot for slot in self._residency.slots.values() if slot.is_leaving]

    def _evictable(self) -> list[Slot]:
        return [
            slot
            for slot in self._residency.slots.values()
            if slot.worker is not None
            and not slot.holders
            and not slot.active
            and not slot.plan.settings.pin
            and slot.plan.spec.name not in self.pins
            and not self._policy.is_remote(slot)
        ]

    def _age_left(self, slot: Slot) -> float:
        return slot.loaded_clock + self._policy.min_residence - self._clock()

    def _victim(self, candidates: list[Slot]) -> Slot | None:
        old = [slot for slot in candidates if self._age_left(slot) <= 0]
        return min(old, key=lambda s: s.used_clock, default=None)


def _out_of_memory(newcomer: Slot | None) -> OutOfMemory:
    if newcomer is None:
        return OutOfMemory("Not enough memory now")
    return OutOfMemory(f"Not enough memory to load {newcomer.plan.spec.name}")
