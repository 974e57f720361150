"""A sequence of frames through a model: the basis of sessions, cameras and plugins' loops."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
from msgspec import UNSET, Struct, UnsetType

from mataserver.contract.envelope import extended
from mataserver.engines.decoding import decode_result
from mataserver.engines.work import Job
from mataserver.engines.worker_errors import WorkerDied
from mataserver.errors import MataError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from mataserver.contract.envelope import Format
    from mataserver.engines.work import Outcome, Timing
    from mataserver.library.plans import ModelPlan
    from mataserver.metrics import Metrics
    from mataserver.params.table import Params
    from mataserver.serving.pool import ModelPool

INLINE_BYTES = 65_536
"""Bodies up to this size are decoded on the event loop: a thread would cost more."""
NUMPY_TASKS = frozenset({"depth", "embed", "segment"})
"""Tasks decoded with numpy, which must not be imported on the event loop."""

log = logging.getLogger("mataserver.sessions")


class FrameTarget(Protocol):
    """The model that receives frames; its plan is looked up each time, as it may change."""

    pool: ModelPool
    metrics: Metrics

    def plan(self) -> ModelPlan:
        """Return the model's current plan."""


class FrameFields(Struct):
    """The fields that follow the result in a frame's answer."""

    session_id: str
    frame_id: int
    inference_ms: float
    dropped: int
    reset: bool | UnsetType = UNSET


class FrameSession:
    """Frames of one source through a model, which may keep state between them.

    ``frames`` counts received frames, ``dropped`` those discarded unanswered, ``results`` those
    answered with a result. ``reset`` is True while a loss of the model's state has not been
    reported in a result.
    """

    def __init__(self, target: FrameTarget, params: Params, session_id: str) -> None:
        self.id = session_id
        self.plan = target.plan()
        self.frames = self.dropped = self.results = 0
        self.reset = False
        self._target = target
        self._metrics = target.metrics
        for counter in (self._metrics.frames, self._metrics.dropped):
            counter.add(self.model, count=0)  # exports the series of a session without frames, too
        self._params = msgspec.msgpack.encode(params)
        self._reset_reported = False

    @property
    def model(self) -> str:
        """The model's name."""
        return self.plan.spec.name

    @property
    def task(self) -> str:
        """The session's task."""
        return self.plan.spec.task

    @property
    def stateful(self) -> bool:
        """Whether the model keeps state, so that frames must stay in order; True if not loaded."""
        return self._target.pool.stateful(self.plan)

    def receive(self, count: int = 1) -> int:
        """Count received frames; return the number of the last one, from 0."""
        self.frames += count
        self._metrics.frames.add(self.model, count=count)
        return self.frames - 1

    def drop(self, count: int = 1) -> None:
        """Count frames discarded unanswered."""
        if count:
            self.dropped += count
            self._metrics.dropped.add(self.model, count=count)

    async def infer(self, image: bytes, form: Format) -> tuple[Outcome, float]:
        """Run a frame; return its outcome, which may be a failure, and its queueing time in ms.

        Raises a ``MataError`` if the model could not be run, or its worker died.
        """
        job = self._job(image, form)
        return await self._target.pool.infer(self.plan, job)

    def begin(
        self, image: bytes, form: Format, take: Callable[[Outcome | MataError, float], None]
    ) -> Callable[[], None] | None:
        """Start what ``infer`` does without a task; see ``Dispatch.begin``."""
        job = self._job(image, form)
        return self._target.pool.begin(self.plan, job, take)

    def generate(self, image: bytes, form: Format) -> AsyncGenerator[str | Outcome]:
        """Yield the text pieces that the model produces for a frame, then its outcome."""
        job = self._job(image, form)
        return self._target.pool.generate(self.plan, job)

    def _job(self, image: bytes, form: Format) -> Job:
        self.plan = self._target.plan()
        return Job(image, self._params, form, self.id)

    def record(self, found: Outcome | MataError) -> None:
        """Record a frame's result, in order: detects that the model's state was lost."""
        if isinstance(found, MataError):
            lost = isinstance(found, WorkerDied)
        else:
            lost = found.is_new_session and self.results > 0
        self.reset = self.reset or lost

    def body(self, outcome: Outcome, form: Format, number: int) -> bytes:
        """Return the complete answer to a frame; once it is sent, clear ``reset``."""
        fields = self.fields(number, outcome.timing, self.dropped, reset=self.reset)
        return extended(outcome.whole(), form, fields)

    def fields(self, number: int, timing: Timing, dropped: int, *, reset: bool) -> FrameFields:
        """Return the fields that follow the result in a frame's answer."""
        lost = True if reset else UNSET
        return FrameFields(self.id, number, timing.infer, dropped, lost)

    async def step(self, image: bytes) -> Any:
        """Run the next frame; return its result, to which ``reset`` then refers.

        Raises what the model raised, and ``WorkerDied`` when its state is lost.
        """
        self.receive()
        if self._reset_reported:
            self.reset = self._reset_reported = False
        try:
            outcome, _ = await self.infer(image, "msgpack")
        except MataError as error:
            self.record(error)
            raise
        self.record(outcome)
        result = await result_of(outcome.whole(), self.plan)
        self.results += 1
        self._reset_reported = True
        return result

    async def discard_state(self) -> None:
        """Make the model discard its state, unless its worker is already gone."""
        try:
            with self._target.pool.lease_worker(self.plan) as worker:
                await worker.close_session(self.id)
        except MataError as error:
            log.debug("session %s lost its state with its worker: %s", self.id, error.detail)


async def result_of(body: bytes, plan: ModelPlan) -> Any:
    """Decode the result in a MessagePack body. Raises ``WorkerDied`` if it is malformed."""
    task, kind = plan.spec.task, plan.backend.result
    if task in NUMPY_TASKS or len(body) > INLINE_BYTES:
        return await asyncio.to_thread(decode_result, body, task, kind)
    return decode_result(body, task, kind)
