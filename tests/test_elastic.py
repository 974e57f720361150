"""Models whose workers become more and fewer: in a pool whose time runs fast, and in a server."""

from __future__ import annotations

import asyncio
import time

import aiohttp
import pytest

from api_answers import until
from conftest import picture
from mataserver import config, testing
from mataserver.config import ConfigError
from mataserver.config.needs import Span
from mataserver.engines.replicas import Replicas
from mataserver.errors import MataError
from mataserver.metrics import Metrics
from mataserver.serving.pool import ModelPool
from mataserver.serving.slots import PoolPolicy
from pool_rig import JOB, MB, Probe, Rig, StandIn

SOON = 20.0
FAST = 100.0
"""Seconds of the pool in one of the test: three seconds are one look, a minute is three."""


class ElasticRig(Rig):
    """A pool whose models have as many workers as they are asked for, each of 100 MB."""

    def __init__(self, ram=1000):
        super().__init__()
        self.every = []
        begun = time.monotonic()
        self.pool = ModelPool(
            self.load,
            Probe(ram * MB),
            Metrics(),
            PoolPolicy(ram_fraction=1.0, min_residence=0.0, keep_alive=-1.0),
            clock=lambda: FAST * (time.monotonic() - begun),
            wall=lambda: self.wall,
        )

    async def load(self, plan):
        replicas = Replicas(self.start, plan.settings.span.first)
        await replicas.load()
        return replicas

    async def start(self, _index):
        if self.failure:
            raise self.failure
        self.every.append(worker := StandIn(100 * MB))
        worker.gate = self.gate
        return worker

    def wanted(self, **span):
        return self.plan("m", replicas=Span(**span))

    def ask(self, plan, number):
        return [asyncio.create_task(self.pool.infer(plan, JOB)) for _ in range(number)]

    @property
    def workers_now(self):
        return sum(not worker.closed for worker in self.every)


@pytest.fixture
async def rig():
    made = ElasticRig()
    yield made
    await made.pool.close()
    assert made.workers_now == 0


async def test_workers_come_and_go(rig):
    """Six images for two workers are two for each of three; once they are answered it is one."""
    plan = rig.wanted(min=1, max=5, target=2)
    rig.gate.clear()
    asked = rig.ask(plan, 6)
    await until(lambda: rig.workers_now == 3, SOON)
    assert rig.pool.status("m", "detect").memory in {200 * MB, 300 * MB}
    await until(lambda: rig.pool.status("m", "detect").memory == 300 * MB, SOON)
    rig.gate.set()
    await asyncio.gather(*asked)
    await until(lambda: rig.workers_now == 1, SOON)
    await until(lambda: rig.pool.status("m", "detect").memory == 100 * MB, SOON)
    await asyncio.gather(*rig.ask(plan, 1))


async def test_a_further_worker_pushes_nobody_out():
    """Where memory is full there is none: the other model stays, and what is there serves on."""
    rig = ElasticRig(ram=350)
    await rig.touch("other")
    plan = rig.wanted(max=8, target=1)
    rig.gate.clear()
    asked = rig.ask(plan, 8)
    await until(lambda: rig.workers_now == 3, SOON)
    await asyncio.sleep(0.6)  # some looks, none of which starts another one
    assert rig.workers_now == 3
    assert rig.state("other") == "ready"
    rig.gate.set()
    await asyncio.gather(*asked)
    await rig.pool.close()
    assert rig.workers_now == 0


async def test_a_further_worker_that_fails_costs_nothing(rig):
    """Requests go on, its memory is not counted, and it is tried again."""
    plan = rig.wanted(max=2, target=1)
    await asyncio.gather(*rig.ask(plan, 1))
    rig.failure = MataError("no GPU is free")
    rig.gate.clear()
    asked = rig.ask(plan, 4)
    await asyncio.sleep(0.6)
    assert (rig.workers_now, rig.pool.status("m", "detect").memory) == (1, 100 * MB)
    rig.failure = None
    await until(lambda: rig.workers_now == 2, SOON)
    rig.gate.set()
    await asyncio.gather(*asked)


async def test_a_model_that_leaves_is_followed_no_more(rig):
    """What was being started for it ends too, and the next load begins with the least."""
    plan = rig.wanted(min=2, max=8, target=1)
    rig.gate.clear()
    asked = rig.ask(plan, 8)
    await until(lambda: rig.workers_now > 2, SOON)
    rig.gate.set()
    await asyncio.gather(*asked)
    assert await rig.pool.unload("m")
    assert rig.workers_now == 0
    await asyncio.gather(*rig.ask(plan, 1))
    assert rig.workers_now == 2


@pytest.mark.parametrize(("least", "state"), [(0, "unloaded"), (1, "idle")])
async def test_who_has_a_least_stays(least, state):
    """With ``min: 0`` a model goes when nobody has asked it for its keep-alive."""
    rig = ElasticRig()
    rig.pool = ModelPool(rig.load, Probe(), Metrics(), PoolPolicy(keep_alive=0.05))
    plan = rig.wanted(min=least, max=4)
    await asyncio.gather(*rig.ask(plan, 1))
    await until(lambda: least or rig.state("m") == "unloaded", SOON)
    await asyncio.sleep(0.2)
    assert rig.state("m") == state
    await rig.pool.close()


@pytest.mark.parametrize(
    ("replicas", "said"),
    [
        ({"min": 3, "max": 2}, r"models\[0\].replicas.min: must not be more than max"),
        ({"min": 1}, "max"),
        ({"max": 65}, "64"),
        ({"max": 4, "target": 0}, "target"),
        ({"max": 4, "least": 1}, "least"),
    ],
)
def test_what_is_no_span(tmp_path, replicas, said):
    """A wrong one stops the start, by its name."""
    with pytest.raises(ConfigError, match=said):
        config.load(environ={}, directory=tmp_path, models=[{"model": "m", "replicas": replicas}])


async def test_a_server_has_as_many_as_it_is_asked_for(data_dir):
    """Real workers: three clients without a pause get a second one, which /metrics tells."""
    models = [{"model": "fake-detect", "replicas": {"max": 2, "target": 1}}]
    async with (
        testing.serving(data_dir, engine="process", models=models) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        over = asyncio.Event()

        async def client():
            query = {"model": "fake-detect", "seconds": "0.05"}
            headers = {"Content-Type": "image/png"}
            while not over.is_set():
                async with http.post(
                    "/v1/infer", params=query, data=picture(), headers=headers
                ) as response:
                    assert response.status == 200

        async def two():
            async with http.get("/metrics") as response:
                return 'mataserver_model_workers{model="fake-detect"} 2.0' in await response.text()

        clients = [asyncio.create_task(client()) for _ in range(3)]
        await until(two, SOON + 10)
        over.set()
        await asyncio.gather(*clients)
