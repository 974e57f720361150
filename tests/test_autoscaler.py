"""The autoscaler: what it does when a replica cannot be started, closed or measured."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from types import SimpleNamespace

import pytest

from api_answers import until
from mataserver.config.needs import Span
from mataserver.engines.replicas import Replicas
from mataserver.engines.work import LoadReport
from mataserver.errors import MataError
from mataserver.plugin_ends import ends_as_errors
from mataserver.serving import autoscaler
from mataserver.serving.autoscaler import Autoscaler
from mataserver.serving.memory_budget import MemoryBudget


class StandIn:
    """A worker that only exists."""

    width = 1
    is_alive = True
    pids = (1,)
    report = LoadReport(stateful=False, pid=1)

    def on_death(self, callback):
        pass

    def on_suspect(self, callback):
        pass

    async def close(self):
        pass


class Budget:
    """A budget that has room for everything, and notes what is taken of it."""

    def __init__(self):
        self.taken = 0

    async def charge(self, slot, ram):
        self.taken += ram
        return True

    def credit(self, slot, ram):
        self.taken -= ram

    async def measure(self, slot, worker):
        pass


def leave():
    """End as an engine does that calls ``sys.exit``."""
    with ends_as_errors():
        raise SystemExit(3)


def refuse():
    """Fail as an engine does that has no memory."""
    raise MataError("no memory")


@pytest.mark.parametrize("fail", [leave, refuse])
async def test_a_replica_that_cannot_be_started_is_tried_again(monkeypatch, fail):
    """However its start fails: its memory is given back, and the next try may succeed."""
    monkeypatch.setattr(autoscaler, "SAMPLE_SECONDS", 0.0)
    starts = []

    async def start(index):
        starts.append(index)
        if len(starts) == 2:
            fail()
        return StandIn()

    replicas, budget = Replicas(start, 1), Budget()
    await replicas.load()
    slot = SimpleNamespace(
        plan=SimpleNamespace(
            settings=SimpleNamespace(span=Span(min=1, max=2)), spec=SimpleNamespace(name="any")
        ),
        worker=replicas,
        batcher=SimpleNamespace(load=50),
        ram=10,
        autoscaling=None,
    )
    seconds = itertools.count()
    Autoscaler(budget, 600.0, lambda: float(next(seconds))).follow(slot, replicas)
    try:
        await until(lambda: replicas.count == 2 and replicas.width == 2)
    finally:
        slot.autoscaling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await slot.autoscaling
        await replicas.close()
    assert starts == [0, 1, 1]
    assert budget.taken == 10


def fail():
    """Fail as code does that has a fault."""
    raise ValueError("a fault")


@pytest.mark.parametrize("end", [leave, fail])
async def test_a_replica_that_cannot_be_closed_is_given_up(end):
    """However its end fails: it is none of them any more, and another may be added."""

    class Clinging(StandIn):
        async def close(self):
            end()

    async def start(_index):
        return Clinging()

    replicas = Replicas(start, 2)
    await replicas.load()
    assert await replicas.shrink()
    assert (replicas.count, replicas.width, len(replicas.pids)) == (1, 1, 1)
    await replicas.grow()
    assert (replicas.count, replicas.width) == (2, 2)


@pytest.mark.parametrize("end", [leave, fail])
async def test_a_worker_that_cannot_be_measured(end):
    """What is known of its memory stays."""

    class Unknown(StandIn):
        async def memory(self):
            end()

    shown = []
    budget = MemoryBudget(
        SimpleNamespace(set_memory_gauge=shown.append),
        SimpleNamespace(vram_of=lambda _pid: 4),
        SimpleNamespace(),
        float,
    )
    slot = SimpleNamespace(ram=10, plan=SimpleNamespace(spec=SimpleNamespace(name="any")))
    await budget.measure(slot, Unknown())
    assert (slot.ram, slot.vram, shown) == (10, 4, ["any"])
