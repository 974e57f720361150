"""Dispatch of jobs to models, which are loaded on demand and held during the request."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from mataserver.engines.work import Outcome
from mataserver.engines.worker_errors import NodeDied, NotDispatchedError, WorkerReplacedError
from mataserver.errors import Unavailable
from mataserver.serving.background import BACKGROUND
from mataserver.serving.queues import Ticket

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence

    from mataserver.engines.work import Job, Worker
    from mataserver.errors import MataError
    from mataserver.library.plans import ModelPlan
    from mataserver.metrics import Metrics
    from mataserver.serving.background import Background
    from mataserver.serving.loading import LoadCoordinator
    from mataserver.serving.residency import Residency
    from mataserver.serving.slots import Slot

RETRIABLE = (WorkerReplacedError, NodeDied, NotDispatchedError)
"""Errors after which a started job is to be retried on the next worker."""
_STAGES = ("queue", "decode", "infer", "encode")
MAX_WORKERS_TRIED = 10
"""Maximum number of workers a job is retried on, when each is replaced for another's image."""


class Dispatch:
    """Dispatches jobs to the queues of models."""

    def __init__(
        self, residency: Residency, loads: LoadCoordinator, metrics: Metrics, background: Background
    ) -> None:
        self._residency = residency
        self._loads = loads
        self._metrics = metrics
        self._background = background

    @contextlib.asynccontextmanager
    async def hold(self, plan: ModelPlan) -> AsyncIterator[None]:
        """Load the model if necessary, and prevent its unloading until the context ends."""
        slot = await self._acquire(plan)
        slot.holds += 1
        try:
            yield
        finally:
            slot.holds -= 1
            self._release(slot)

    async def infer(self, plan: ModelPlan, job: Job) -> tuple[Outcome, float]:
        """Run one job, loading the model if necessary; return its outcome and queueing time in ms.

        The job is retried on the next worker if its worker died before receiving it, or was
        replaced because of another client's image; and once if the worker was lost with its node,
        unless it held the state of the job's session. Background work waits for its turn, and holds
        no model while it waits.
        """
        background = self._background
        if BACKGROUND.get():
            async with background.turn() as low_priority:
                outcome, waited = await self._infer(plan, job, low_priority=low_priority)
                background.record_duration(outcome.timing.total / 1e3)
                return outcome, waited
        background.foreground_started()
        try:
            return await self._infer(plan, job)
        finally:
            background.foreground_ended()

    def begin(
        self, plan: ModelPlan, job: Job, take: Callable[[Outcome | MataError, float], None]
    ) -> Callable[[], None] | None:
        """Start a job without a task, if the model is ready.

        ``take`` is called later, once, with the outcome and the queueing time in ms, or with an
        error: for one of ``RETRIABLE`` the caller should retry with ``infer`` (but not for
        ``NodeDied`` of a session's job). Returns a function that cancels the job; or None if
        nothing was started, because the model needs something that ``infer`` waits for.
        """
        slot = None if BACKGROUND.get() else self._ready(plan)
        if slot is None:
            return None
        batcher, ticket = slot.batcher, Ticket()
        queued = None if batcher is None else batcher.begin(job, ticket)
        if batcher is None or queued is None:
            self._release(slot)
            return None
        self._background.foreground_started()

        def release() -> None:
            try:
                self._release(slot)
            finally:
                self._background.foreground_ended()

        def complete(answer: Outcome | MataError) -> None:
            try:
                if isinstance(answer, Outcome):
                    self._record(slot, answer, queued.queue_ms)
            finally:  # whatever failed: release the model and answer the caller
                try:
                    release()
                finally:
                    take(answer, queued.queue_ms)

        def cancel() -> None:
            if not queued.future.done():
                batcher.cancel(queued)
                release()

        ticket.take = complete
        return cancel

    async def _infer(
        self, plan: ModelPlan, job: Job, *, low_priority: bool = False
    ) -> tuple[Outcome, float]:
        failures: list[MataError] = []
        for _ in range(MAX_WORKERS_TRIED):
            slot = self._ready(plan) or await self._acquire(plan)
            try:
                if slot.batcher is None:
                    continue
                outcome, waited = await slot.batcher.submit(job, low_priority=low_priority)
                self._record(slot, outcome, waited)
            except RETRIABLE as error:
                failures.append(error)
                _check_retriable(failures, job)
                continue
            finally:
                self._release(slot)
            return outcome, waited
        raise Unavailable("The model was unloaded meanwhile", retry_after=1)

    async def generate(self, plan: ModelPlan, job: Job) -> AsyncGenerator[str | Outcome]:
        """Yield the text pieces that a model produces for a job, then its outcome.

        Loads the model if necessary; closing the iterator stops the work. Before its first piece, a
        job is retried as ``infer`` does.
        """
        failures: list[MataError] = []
        yielded = False
        async with self._background.scheduled():
            while True:
                slot = await self._acquire(plan)
                try:
                    if slot.batcher is None:
                        raise Unavailable("The model was unloaded meanwhile", retry_after=1)
                    async with contextlib.aclosing(slot.batcher.generate(job)) as items:
                        async for item in items:
                            if not isinstance(item, str):
                                self._record(slot, item, 0.0)
                                if BACKGROUND.get():
                                    self._background.record_duration(item.timing.total / 1e3)
                            yielded = True
                            yield item
                except RETRIABLE as error:
                    if yielded:
                        raise
                    failures.append(error)
                    _check_retriable(failures, job)
                else:
                    return
                finally:
                    self._release(slot)

    @contextlib.contextmanager
    def lease_worker(self, plan: ModelPlan) -> Iterator[Worker]:
        """Lease the worker of a held model; it is not unloaded until the context ends.

        Raises ``Unavailable`` if it just died or was unloaded.
        """
        slot = self._residency.slots.get(plan.key)
        if slot is None or slot.batcher is None:
            raise Unavailable("The model's worker is gone", retry_after=1)
        slot.used = True
        try:
            with self._background.foreground(), slot.batcher.lease_worker() as worker:
                yield worker
        finally:
            self._residency.record_use(slot)

    def _ready(self, plan: ModelPlan) -> Slot | None:
        """Return the slot of a loaded model and hold it, None if anything must be awaited."""
        slot = self._residency.slots.get(plan.key)
        if slot is None or slot.worker is None or slot.plan is not plan:
            return None
        if not slot.worker.is_alive:
            return None
        slot.holders += 1
        return slot

    async def _acquire(self, plan: ModelPlan) -> Slot:
        slot = self._residency.slot(plan)
        slot.holders += 1
        if slot.worker is not None and not slot.plan.same_model(plan):
            self._residency.unload(slot, "replaced")
        try:
            if slot.worker is None or not slot.worker.is_alive:
                await self._loads.ensure_loaded(slot, plan)
        except BaseException:
            self._release(slot)
            raise
        return slot

    def _release(self, slot: Slot) -> None:
        """Release a model held by a request."""
        slot.holders -= 1
        if slot.used and slot.worker is not None:
            self._residency.record_use(slot)
        self._residency.start_timer(slot)

    def _record(self, slot: Slot, outcome: Outcome, waited: float) -> None:
        """Record a job's metrics. Call before releasing its slot, which records the last use."""
        slot.deaths, slot.used = 0, True
        if slot.worker is None:  # already being unloaded: ``release`` will not record the use
            self._residency.record_use(slot)
        name, timing = slot.plan.spec.name, outcome.timing
        self._metrics.inferences.add(name, "ok" if outcome.failure is None else "failed")
        took = (waited / 1e3, timing.decode / 1e3, timing.infer / 1e3, timing.encode / 1e3)
        self._metrics.stages.observe_each(took, name, _STAGES)


def _check_retriable(failures: Sequence[MataError], job: Job) -> None:
    """Raise a job's last failure if it must not run on another worker.

    It may after each worker that was replaced, and once after each other kind of failure; a lost
    node may have held the state of its session.
    """
    error = failures[-1]
    if isinstance(error, WorkerReplacedError):
        may_retry = len(failures) < MAX_WORKERS_TRIED
    else:
        is_first = not any(isinstance(each, type(error)) for each in failures[:-1])
        may_retry = is_first and (job.session is None or isinstance(error, NotDispatchedError))
    if may_retry:
        return
    if isinstance(error, NotDispatchedError):
        raise Unavailable("The model's worker keeps dying", retry_after=1) from None
    raise error
