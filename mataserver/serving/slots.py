"""The model pool's records: a slot per model, its last failure, and the policy."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mataserver.engines.replicas import Replicas
from mataserver.engines.worker_errors import Failure
from mataserver.sources import local

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver.engines.work import Worker
    from mataserver.errors import MataError
    from mataserver.library.plans import ModelPlan
    from mataserver.serving.batching import Batcher


class Status(msgspec.Struct, frozen=True):
    """A model's state. Memory in bytes, times in Unix seconds. ``pinned``: by request.

    ``loading``: for how many seconds it has been loaded, and what that waits for.
    """

    state: str = "unloaded"
    memory: int | None = None
    loaded_at: float | None = None
    last_used: float | None = None
    error: str | None = None
    pinned: bool = False
    loading: tuple[float, str] | None = None


@dataclass(frozen=True, slots=True)
class PoolPolicy:
    """The pool's settings, in seconds, and fractions of total memory."""

    keep_alive: float = 300.0
    min_residence: float = 10.0
    load_timeout: float = 600.0
    queue_limit: int = 64
    ram_fraction: float = 0.9
    vram_fraction: float = 0.9
    device: str = "auto"
    engine: str = "auto"
    is_remote_engine: Callable[[str], bool] = lambda _name: False

    def is_remote(self, slot: Slot) -> bool:
        """Whether a model's workers run on other machines, and use none of this one's memory."""
        return self.is_remote_engine(slot.plan.engine(self.engine))


@dataclass(frozen=True, slots=True)
class LastingFailure:
    """Why a model failed to load, valid while its inputs are unchanged.

    ``until`` is on the pool's clock: inputs that are not observed, such as a driver or a system
    program, are retried then.
    """

    plan: ModelPlan
    fingerprint: tuple[str, ...]
    failure: Failure
    until: float

    @classmethod
    async def of(cls, plan: ModelPlan, error: MataError, until: float) -> LastingFailure:
        """Record a failed load."""
        taken = await asyncio.to_thread(_fingerprint, plan)
        return cls(plan, taken, Failure.of(error), until)

    async def check(self, plan: ModelPlan, now: float) -> None:
        """Raise the load's failure, if the load would fail again."""
        if self.plan != plan or now >= self.until:
            return
        if await asyncio.to_thread(_fingerprint, plan) == self.fingerprint:
            raise self.failure.error()


def _fingerprint(plan: ModelPlan) -> tuple[str, ...]:
    """Return the editions of a load's inputs: of the model's files, and of the packages.

    A package directory changes when a package is installed or removed. Blocking.
    """
    paths = [each.spec.path for each in plan.with_parts if each.spec.path is not None]
    return (*map(local.edition_of, paths), *(local.stamp(Path(place)) for place in sys.path))


class Slot:
    """One model's record in the pool, kept for the server's lifetime."""

    def __init__(self, plan: ModelPlan) -> None:
        self.plan = plan
        self.worker: Worker | None = None
        self.batcher: Batcher | None = None
        self.loading: asyncio.Task[None] | None = None
        self.unloading: asyncio.Task[None] | None = None
        self.leftovers: set[asyncio.Future[None]] = set()
        """What loads that were given up have left running, see ``LOAD_LEFTOVER``."""
        self.autoscaling: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.holders = 0
        self.holds = 0
        self.deaths = 0
        self.not_before = 0.0
        self.evicted = False
        self.used = False
        self.error: str | None = None
        self.lasting_failure: LastingFailure | None = None
        self.ram = 0
        self.vram = 0
        """Both in bytes, of all its replicas. What they were when it was last loaded:"""
        self.after_load = 0, 0
        self.loaded_at: float | None = None
        self.last_used: float | None = None
        """Both in Unix seconds, for display. The same moments on the pool's clock:"""
        self.loaded_clock = 0.0
        self.used_clock = 0.0
        self.idle_since = 0.0
        self.load_begun = 0.0
        self.load_phase = ""
        """What the load in progress waits for, see ``LoadProgress``."""

    @property
    def workers(self) -> int:
        """The number of its workers, including those being started."""
        if self.worker is None:
            return 0
        return self.worker.count if isinstance(self.worker, Replicas) else 1

    @property
    def is_leaving(self) -> bool:
        """Whether what takes no more requests, or was given up, still has its memory."""
        if self.worker is None and self.leftovers:
            return True
        return self.unloading is not None and not self.unloading.done()

    def add_leftover(self, end: asyncio.Future[None]) -> None:
        """Keep its memory charged to the model until ``end`` is done."""
        self.leftovers.add(end)
        end.add_done_callback(self.leftovers.discard)

    @property
    def active(self) -> bool:
        """Whether an inference is queued or running."""
        return self.batcher is not None and self.batcher.active

    @property
    def state(self) -> str:
        """Its state as the API names it."""
        if self.loading is not None:
            return "loading"
        if self.worker is None:
            return "evicted" if self.evicted else "unloaded"
        if self.active:
            return "active"
        return "idle" if self.used else "ready"
