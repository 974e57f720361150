"""Loads of models: deduplicated, limited in time, and suppressed where they cannot succeed."""

from __future__ import annotations

import asyncio
import functools
import logging
from typing import TYPE_CHECKING

from mataserver.engines.work import LOAD_LEFTOVER, LOAD_PHASE
from mataserver.engines.worker_errors import WorkerDied
from mataserver.errors import MataError, Unavailable, shortage_error
from mataserver.plugin_ends import ends_logged
from mataserver.serving import text_worker
from mataserver.serving.autoscaler import Autoscaler
from mataserver.serving.batching import Batcher
from mataserver.serving.residency import shutdown_error
from mataserver.serving.slots import LastingFailure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mataserver.engines.work import Worker
    from mataserver.library.plans import ModelPlan
    from mataserver.metrics import Metrics
    from mataserver.serving.memory_budget import MemoryBudget
    from mataserver.serving.residency import Residency
    from mataserver.serving.slots import PoolPolicy, Slot

log = logging.getLogger("mataserver.pool")

LASTING_FAILURE_SECONDS = 60.0
"""Seconds for which a load that failed for a lasting reason is not retried blindly."""
UNLOAD_WAIT = 30.0
"""Seconds that a load waits for the previous worker to finish its requests."""


class LoadCancelledError(Unavailable):
    """503: somebody unloaded the model while it was loaded."""

    def __init__(self) -> None:
        super().__init__("The load of the model was cancelled", retry_after=1)


class LoadCoordinator:
    """Loads models into memory."""

    def __init__(
        self,
        loader: Callable[[ModelPlan], Awaitable[Worker]],
        residency: Residency,
        budget: MemoryBudget,
        *,
        metrics: Metrics,
        policy: PoolPolicy,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._loader = loader
        self._residency = residency
        self._budget = budget
        self._autoscaler = Autoscaler(budget, policy.load_timeout, clock)
        self._metrics = metrics
        self._policy = policy
        self._clock = clock
        self._wall = wall

    async def ensure_loaded(self, slot: Slot, plan: ModelPlan) -> None:
        """Load a model, or wait for the load in progress. Raises the reason if it fails."""
        if self._residency.closed.is_set():
            raise shutdown_error()
        if slot.loading is None and slot.lasting_failure is not None:
            await slot.lasting_failure.check(plan, self._clock())
            slot.lasting_failure = None
        if slot.loading is None:
            wait = slot.not_before - self._clock()
            if wait > 0:
                raise Unavailable("The model's worker keeps dying", retry_after=round(wait + 0.5))
            if slot.plan != plan:  # other files or settings: what was measured says nothing of it
                slot.after_load = 0, 0
            slot.plan = plan
            slot.load_begun, slot.load_phase = self._clock(), "memory"
            slot.loading = asyncio.get_running_loop().create_task(self._load(slot))
            slot.loading.add_done_callback(functools.partial(_end, slot))
        await self._wait_for_load(slot.loading)

    async def _wait_for_load(self, loading: asyncio.Task[None]) -> None:
        """Wait for a load, without cancelling it if the caller is cancelled.

        On shutdown it raises at once, instead of waiting for the cancelled load to end.
        """
        closed = asyncio.ensure_future(self._residency.closed.wait())
        try:
            await asyncio.wait([loading, closed], return_when=asyncio.FIRST_COMPLETED)
        finally:
            closed.cancel()
        if self._residency.closed.is_set() and (not loading.done() or loading.cancelled()):
            raise shutdown_error()
        if loading.cancelled():
            raise LoadCancelledError
        loading.result()

    async def _load(self, slot: Slot) -> None:
        name = slot.plan.spec.name
        try:
            await self._wait_for_unload(slot)
            # Not what its last worker took at its end, which may have been several replicas.
            slot.ram, slot.vram = slot.after_load
            await self._budget.make_room(slot)
            slot.load_phase = "worker"
            LOAD_LEFTOVER.set(slot.add_leftover)
            LOAD_PHASE.set(functools.partial(setattr, slot, "load_phase"))
            async with asyncio.timeout(self._policy.load_timeout):
                worker = await self._loader(slot.plan)
        except asyncio.CancelledError:
            self._metrics.loads.labels(name, "cancelled").inc()
            log.info("the load of %s was cancelled", name)
            raise
        except TimeoutError:
            limit = self._policy.load_timeout
            self._record_failure(slot, MataError(f"The model did not load within {limit:g} s"))
            raise MataError(f"The model did not load within {limit:g} s") from None
        except WorkerDied:
            # WorkerDied would make callers retry, and this worker died during the load itself.
            raise self._died(slot) from None
        except MataError as error:
            self._record_failure(slot, error)
            if error.lasting:
                until = self._clock() + LASTING_FAILURE_SECONDS
                slot.lasting_failure = await LastingFailure.of(slot.plan, error, until)
            raise
        except Exception as error:
            failure = shortage_error(error) or MataError("The model could not be loaded")
            if failure.status != Unavailable.status:
                log.exception("unexpected error while loading %s", name)
            self._record_failure(slot, failure)
            raise failure from error
        finally:
            slot.loading = None
        if not worker.is_alive:
            with ends_logged(log, "the worker of %s could not be closed", name):
                await worker.close()
            raise self._died(slot)
        await self._install_worker(slot, worker)
        log.info("loaded %s (%s)", name, slot.plan.backend.name)

    async def _wait_for_unload(self, slot: Slot) -> None:
        """Wait for the previous worker's end. Raises ``Unavailable`` if it is still in use."""
        ending = {*slot.leftovers, *filter(None, [slot.unloading])}
        if not ending:
            return
        patience = min(UNLOAD_WAIT, self._policy.load_timeout)
        _, waiting = await asyncio.wait(ending, timeout=patience)
        if waiting:
            raise Unavailable("The model is being unloaded", retry_after=5)

    async def _install_worker(self, slot: Slot, worker: Worker) -> None:
        settings = slot.plan.settings
        name = slot.plan.spec.name
        slot.worker = worker
        max_batch = settings.max_batch or slot.plan.backend.max_batch
        called, batch = text_worker.for_batcher(worker, slot.plan.spec.task, max_batch)
        slot.batcher = Batcher(
            called,
            max_batch=batch,
            max_wait=settings.max_wait_ms / 1e3,
            queue_limit=self._policy.queue_limit,
        )
        slot.evicted, slot.used, slot.error = False, False, None
        slot.loaded_at, slot.loaded_clock = self._wall(), self._clock()
        slot.used_clock = slot.loaded_clock
        worker.on_death(lambda death: self._residency.record_death(slot, worker, death))
        self._metrics.loads.labels(name, "ok").inc()
        self._residency.set_loaded_gauge()
        self._autoscaler.follow(slot, worker)
        await self._budget.measure(slot, worker)
        slot.after_load = slot.ram, slot.vram
        self._residency.start_timer(slot)  # the callers that waited for it may be gone

    def _died(self, slot: Slot) -> Unavailable:
        """Record a worker's death during its load; return the error for the waiting requests.

        A retry may succeed, for example if memory ran out or the process was killed; repeated
        deaths delay the next load increasingly.
        """
        wait = self._residency.count_death(slot, "it was loading")
        failure = Unavailable(
            "The model could not be loaded: its worker died", retry_after=max(1, round(wait + 0.5))
        )
        self._record_failure(slot, failure)
        return failure

    def _record_failure(self, slot: Slot, error: MataError) -> None:
        slot.error = error.detail
        self._metrics.loads.labels(slot.plan.spec.name, "failed").inc()
        log.error("could not load %s: %s", slot.plan.spec.name, error.detail)


def _end(slot: Slot, task: asyncio.Task[None]) -> None:
    """Mark a load's exception as retrieved: it may have no awaiter left."""
    if slot.loading is task:  # it was cancelled before it began
        slot.loading = None
    if not task.cancelled():
        task.exception()
