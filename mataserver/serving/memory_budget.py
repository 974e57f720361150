"""Memory for models: eviction under RAM and VRAM ceilings."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from typing import TYPE_CHECKING

from mataserver.errors import OutOfMemory, Shortage, Unavailable
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
            raise _out_of_memory(None, self._shortage(size, None, []))
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
            raise _out_of_memory(slot, self._shortage(need, slot, [])) from None

    async def _evict_for(self, newcomer: Slot | None, need: int) -> float:
        """Evict what is old enough; return the seconds until more may go, 0 once all fits.

        ``need`` bytes are then charged to ``newcomer``, or counted as reserved if that is None.
        """
        async with self._lock:
            if shortage := self._shortage(need, newcomer, self._evictable() + self._leaving()):
                raise _out_of_memory(newcomer, shortage)
            while shortage := self._shortage(need, newcomer, []):
                on_gpu = shortage.device != "ram"
                candidates = [s for s in self._evictable() if s.vram or not on_gpu]
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
                    raise _out_of_memory(newcomer, shortage)
            if newcomer is None:
                self._reserved += need
            else:
                newcomer.ram = need
            return 0.0

    def _shortage(self, need: int, newcomer: Slot | None, without: list[Slot]) -> Shortage | None:
        """Return which memory falls short, if any, and by how much, if ``without`` were evicted."""
        others = [
            each
            for each in self._residency.slots.values()
            if each is not newcomer
            and each not in without
            and (each.worker or each.loading or each.is_leaving)
            and not self._policy.is_remote(each)
        ]
        held = self._probe.own() + self._reserved + sum(each.ram for each in others)
        limit = self._policy.ram_fraction * self._probe.ram_total()
        if held + need > limit:
            return _figures("ram", need, limit - held, limit)
        index, gpu = self._gpu(newcomer) if newcomer is not None else (0, None)
        if newcomer is None or gpu is None:
            return None
        coming = sum(
            s.vram or s.ram
            for s in others
            if s.worker is None and (s.loading or s.leftovers) and s.plan.uses_gpu
        )
        used = gpu.used + coming - sum(each.vram for each in without)
        wanted, limit = newcomer.vram or need, self._policy.vram_fraction * gpu.total
        short = used + wanted > limit
        return _figures(f"cuda:{index}", wanted, limit - used, limit) if short else None

    def _gpu(self, slot: Slot) -> tuple[int, Gpu | None]:
        """Return index and memory of a model's GPU. Raises ``Unavailable`` if it does not exist."""
        device = slot.plan.settings.device or self._policy.device
        if device == "cpu" or not slot.plan.uses_gpu:
            return 0, None
        gpus = self._probe.gpus()
        index = int(device.partition(":")[2] or 0)
        if index >= len(gpus):
            if device == "auto" or not gpus:
                return 0, None  # without a driver to query, the backend decides if it can run
            raise Unavailable(f"There is no GPU {index}")
        return index, gpus[index]

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


def _figures(device: str, needed: float, free: float, limit: float) -> Shortage:
    """Return a shortage of bytes in MB. What is held may exceed the limit: nothing is free then."""
    return Shortage(device, *(round(max(0.0, each) / 1e6, 1) for each in (needed, free, limit)))


def _out_of_memory(newcomer: Slot | None, shortage: Shortage | None) -> OutOfMemory:
    """Return the refusal of a model, or of a process, with the figures unless they have changed."""
    sentence = "Not enough memory now"
    if newcomer is not None:
        sentence = f"Not enough memory to load {newcomer.plan.spec.name}"
    if shortage is not None:
        where = "of RAM" if shortage.device == "ram" else f"on {shortage.device}"
        needed, free = math.ceil(shortage.needed_mb), int(shortage.free_mb)
        sentence += f": {needed} MB {where} needed, {free} MB free"
    error = OutOfMemory(sentence)
    error.shortage = shortage
    return error
