"""Which models are in memory, their keep-alive while unused, and their unloading."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import TYPE_CHECKING

from mataserver.errors import Unavailable
from mataserver.plugin_ends import ends_logged
from mataserver.serving.slots import Slot

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver.engines.work import Worker
    from mataserver.engines.worker_errors import Death
    from mataserver.library.plans import ModelPlan
    from mataserver.metrics import Metrics
    from mataserver.serving.slots import PoolPolicy

log = logging.getLogger("mataserver.pool")

DEATHS_WITHOUT_BACKOFF = 2
MAX_BACKOFF = 60.0
RECHECK_SECONDS = 0.2


class Residency:
    """The slots of models, by name and task.

    ``closed`` is set when no more loads are accepted; ``closing`` are workers that are being
    closed, or could not be.
    """

    def __init__(
        self,
        metrics: Metrics,
        policy: PoolPolicy,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._metrics = metrics
        self._policy = policy
        self._clock = clock
        self._wall = wall
        self.slots: dict[tuple[str, str], Slot] = {}
        self.closed = asyncio.Event()
        self.closing: set[Worker] = set()

    def slot(self, plan: ModelPlan) -> Slot:
        """Return a model's slot, creating it at first use."""
        slot = self.slots.get(plan.key)
        if slot is None:
            slot = self.slots[plan.key] = Slot(plan)
        return slot

    def slots_of(self, name: str) -> list[Slot]:
        """Return the slots of a model, which may serve two tasks."""
        return [slot for (model, _), slot in self.slots.items() if model == name]

    def loaded(self) -> list[tuple[str, str]]:
        """Return name and task of every model in memory."""
        return [key for key, slot in self.slots.items() if slot.worker is not None]

    def set_loaded_gauge(self) -> None:
        """Set the gauge of loaded models."""
        self._metrics.loaded.set(len(self.loaded()))

    def set_queue_gauges(self) -> None:
        """Set the gauges of queue lengths and workers."""
        waiting, workers = Counter[str](), Counter[str]()
        for (name, _), slot in self.slots.items():
            waiting[name] += 0 if slot.batcher is None else len(slot.batcher)
            workers[name] += slot.workers
        for name in waiting:
            self._metrics.queued.labels(name).set(waiting[name])
            self._metrics.workers.labels(name).set(workers[name])

    def set_memory_gauge(self, name: str) -> None:
        """Set the gauge of a model's memory, over all its tasks."""
        loaded = [slot for slot in self.slots_of(name) if slot.worker is not None]
        self._metrics.memory.labels(name).set(sum(slot.ram + slot.vram for slot in loaded))
        self._metrics.vram.labels(name).set(sum(slot.vram for slot in loaded))

    def record_use(self, slot: Slot) -> None:
        """Record that a model was used now."""
        slot.last_used, slot.used_clock = self._wall(), self._clock()

    def unload(self, slot: Slot, reason: str) -> asyncio.Task[None]:
        """Unload a model after its queued jobs; new requests load it again."""
        worker, batcher = slot.worker, slot.batcher
        self._detach(slot)
        if worker is not None:
            self.closing.add(worker)
        slot.evicted = reason == "evicted"
        self.stop_timer(slot)
        name = slot.plan.spec.name
        self._metrics.unloads.labels(name, reason).inc()

        async def finish() -> None:
            if batcher is not None:
                await batcher.drain()
            if worker is not None:
                # An engine may be a plugin's. Who waits for the memory is not who failed.
                with ends_logged(log, "the worker of %s could not be closed", name):
                    await worker.close()
                    self.closing.discard(worker)  # not if that failed: a hard stop must end it
            self.set_memory_gauge(name)
            log.info("unloaded %s: %s", name, reason)

        slot.unloading = asyncio.get_running_loop().create_task(finish())
        return slot.unloading

    def start_timer(self, slot: Slot) -> None:
        """Unload the model once it has not been held for its keep-alive.

        A running timer is kept: it checks again when it fires, which is cheaper than moving it.
        """
        if slot.holders or slot.worker is None or self.closed.is_set():
            return
        loop = asyncio.get_running_loop()
        slot.idle_since = loop.time()
        if slot.timer is None and (seconds := self._keep_alive(slot)) >= 0:
            slot.timer = loop.call_later(seconds, self._expire, slot)

    def _keep_alive(self, slot: Slot) -> float:
        settings = slot.plan.settings
        if settings.keep_alive is not None:
            return settings.keep_alive
        stays = settings.preload or settings.span.stays
        return -1.0 if stays else self._policy.keep_alive

    def stop_timer(self, slot: Slot) -> None:
        """Cancel the keep-alive timer."""
        if slot.timer is not None:
            slot.timer.cancel()
            slot.timer = None

    def _expire(self, slot: Slot) -> None:
        slot.timer = None
        seconds = self._keep_alive(slot)
        if slot.worker is None or slot.holders or seconds < 0:
            return
        loop = asyncio.get_running_loop()
        left = slot.idle_since + seconds - loop.time()
        if slot.active:  # the requests were cancelled, and the model still works on them
            left = max(left, RECHECK_SECONDS)
        if left > 0:
            slot.timer = loop.call_later(left, self._expire, slot)
        else:
            self.unload(slot, "keep-alive")

    def record_death(self, slot: Slot, worker: Worker, death: Death) -> None:
        """Record a worker's death; one caused by an image is not counted against the model."""
        if death.is_model_fault:
            self.count_death(slot, death.reason)
        self.closing.discard(worker)
        if slot.worker is worker:
            self._detach(slot)

    def _detach(self, slot: Slot) -> None:
        """Take the worker from a slot: the next request loads the model again."""
        slot.worker = slot.batcher = slot.loaded_at = None
        if slot.autoscaling is not None:
            slot.autoscaling.cancel()
            slot.autoscaling = None
        self.set_loaded_gauge()

    def count_death(self, slot: Slot, reason: str) -> float:
        """Count a death; from the third in a row on, delay the next load. Return by how much."""
        slot.deaths += 1
        slot.error = f"The worker died: {reason}"
        if slot.deaths > DEATHS_WITHOUT_BACKOFF:
            pause = min(MAX_BACKOFF, 2.0 ** (slot.deaths - DEATHS_WITHOUT_BACKOFF - 1))
            slot.not_before = self._clock() + pause
        self._metrics.deaths.labels(slot.plan.spec.name).inc()
        return max(0.0, slot.not_before - self._clock())


def shutdown_error() -> Unavailable:
    """Return the error for requests pending at shutdown."""
    return Unavailable("The server is shutting down", retry_after=5)
