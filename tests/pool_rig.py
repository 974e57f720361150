"""A model pool whose workers, memory and clock a test decides."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from mataserver.config import ModelSettings
from mataserver.contract.backend import ModelSpec
from mataserver.engines.work import Job, LoadReport, Outcome, Timing
from mataserver.engines.worker_errors import Death, WorkerDied
from mataserver.library.plans import ModelPlan
from mataserver.metrics import Metrics
from mataserver.serving.pool import ModelPool
from mataserver.serving.slots import PoolPolicy
from mataserver.testing import FAKE, fake

MB = 1_000_000
JOB = Job(b"image", b"\x80")


class StandIn:
    """A worker whose every step the test decides."""

    def __init__(self, memory: int) -> None:
        self.report = LoadReport(stateful=False, pid=1)
        self.width, self.pids = 1, (1,)
        self.is_alive = True
        self.closed = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.batches: list[int] = []
        self.tasks = []
        self._memory = memory
        self._callbacks = []

    def infer(self, jobs, answered):
        self.batches.append(len(jobs))
        self.tasks.append(asyncio.create_task(self._answer(jobs, answered)))
        return lambda: None

    async def _answer(self, jobs, answered):
        await self.gate.wait()
        answered([Outcome(b"{}", Timing()) for _ in jobs] if self.is_alive else WorkerDied("died"))

    async def memory(self):
        return self._memory

    def on_suspect(self, callback) -> None:
        pass

    def on_death(self, callback):
        self._callbacks.append(callback)

    def die(self):
        self.is_alive = False
        self.gate.set()
        for callback in self._callbacks:
            callback(Death("it was shot"))

    async def close(self):
        self.closed = True


class Probe:
    """A machine with 1000 MB of RAM, or as the test says."""

    def __init__(self, ram=1000 * MB, gpus=()):
        self._ram, self._gpus = ram, list(gpus)

    def ram_total(self):
        return self._ram

    def own(self):
        return 0

    def gpus(self):
        return self._gpus

    def vram_of(self, pid):
        return 0


class Rig:
    """A pool whose time, loader and machine belong to the test."""

    def __init__(self, probe=None, sizes=None, **policy):
        self.now = 1000.0
        self.wall = 1.8e9
        self.sizes = sizes or {}
        self.workers = {}
        self.loads = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure = None
        self.metrics = Metrics()
        usual = {"ram_fraction": 1.0, "min_residence": 0.0, "keep_alive": -1.0}
        usual["is_remote_engine"] = "ray".__eq__
        chosen = PoolPolicy(**{**usual, **policy})
        self.pool = ModelPool(
            self.load,
            probe or Probe(),
            self.metrics,
            chosen,
            clock=lambda: self.now,
            wall=lambda: self.wall,
        )

    async def load(self, plan):
        self.loads.append(plan.spec.name)
        await self.gate.wait()
        if self.failure:
            raise self.failure
        worker = StandIn(self.sizes.get(plan.spec.name, 100) * MB)
        self.workers[plan.spec.name] = worker
        return worker

    def plan(self, name, estimate=100, *, gpu=False, **settings):
        backend = next(b for b in fake.backends() if b.name == "fake-detect")
        backend = dataclasses.replace(backend, gpu=gpu)
        return ModelPlan(
            ModelSpec(name, "detect", "pip"),
            backend,
            FAKE.name,
            None,
            ModelSettings(model=name, **settings),
            estimate * MB,
        )

    def state(self, name):
        return self.pool.status(name, "detect").state

    async def touch(self, name, **plan):
        async with self.pool.hold(self.plan(name, **plan)):
            pass
        self.now += 1


async def until(condition):
    """Wait until something is so, for at most five seconds."""
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it never came to be")
