"""Loads that say what they wait for, that can be cancelled, and that say how much did not fit."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading

import aiohttp
import pytest

from api_answers import until as becomes
from conftest import picture
from mataserver import testing
from mataserver.engines.memory import Gpu, process_tree
from mataserver.engines.work import LOAD_LEFTOVER
from mataserver.errors import OutOfMemory, Unavailable
from pool_rig import MB, Probe, Rig, until
from test_api_models import SmallMachine, info, post

PNG = picture()
CANCELLED = "The load of the model was cancelled"


@contextlib.asynccontextmanager
async def slow(data_dir, engine="thread", seconds=2.0, **settings):
    """Yield a client of a server whose models load for so many seconds."""
    given = {"plugins": {"fake": {"load_seconds": seconds}}, **settings}
    async with (
        testing.serving(data_dir, engine=engine, **given) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        yield http


async def reads_weights(http):
    """Return whether the load is in the model's plugin."""
    return (await info(http)).get("loading", {}).get("waits_for") == "weights"


async def is_loading(http):
    """Return whether the model is loading."""
    return (await info(http))["state"] == "loading"


@pytest.mark.parametrize("engine", ["process", "thread"])
async def test_a_load_is_cancelled_and_begun_again(data_dir, engine):
    """Unloading a model that is loading ends its worker, and is told to all who waited for it."""
    async with slow(data_dir, engine) as http:
        waiting = [asyncio.create_task(post(http, "warmup")) for _ in range(2)]
        await becomes(lambda: reads_weights(http))
        assert 0 <= (await info(http))["loading"]["seconds"] < 60
        workers = {*process_tree(os.getpid())}
        assert await post(http, "unload") == (200, {"status": "unloaded", "model": "fake-detect"})
        assert await asyncio.gather(*waiting) == [(503, {"detail": CANCELLED})] * 2
        found = await info(http)
        assert (found["state"], found.keys() & {"loading", "error"}) == ("unloaded", set())
        if engine == "process":
            await until(lambda: len(workers & {*process_tree(os.getpid())}) < len(workers))
        assert (await post(http, "warmup"))[0] == 200
        assert "loading" not in await info(http)
        async with http.get("/metrics") as response:
            line = 'mataserver_model_loads_total{model="fake-detect",outcome="cancelled"} 1.0'
            assert line in await response.text()
        if engine == "thread":  # the first one's load went on to its end
            names = [each.name for each in threading.enumerate()]
            assert names.count("model fake-detect") == 1


async def test_a_thread_that_goes_on_loading(data_dir):
    """The model is not loaded beside it, however often that is asked for."""
    async with slow(data_dir, seconds=1.5) as http:
        for _ in range(4):
            waiting = asyncio.create_task(post(http, "warmup"))
            await becomes(lambda: is_loading(http))
            await post(http, "unload")
            assert await waiting == (503, {"detail": CANCELLED})
            names = [each.name for each in threading.enumerate()]
            assert names.count("model fake-detect") <= 1
        waiting = asyncio.create_task(post(http, "warmup"))
        assert (await waiting)[0] == 200
        names = [each.name for each in threading.enumerate()]
        assert names.count("model fake-detect") == 1


async def test_only_a_load_is_cancelled(data_dir):
    """A model that has been loaded meanwhile, and that others may use, stays."""
    async with slow(data_dir) as http:
        named = {"model": "fake-detect"}
        assert await unload(http, if_loading=True) == {"status": "not_loaded", **named}
        waiting = asyncio.create_task(post(http, "warmup"))
        await becomes(lambda: reads_weights(http))
        assert await unload(http, if_loading=True) == {"status": "unloaded", **named}
        assert (await waiting)[0] == 503
        assert (await post(http, "warmup"))[0] == 200
        assert await unload(http, if_loading=True) == {"status": "ready", **named}
        assert (await info(http))["loaded_at"] is not None
        assert await unload(http, if_loading=False) == {"status": "unloaded", **named}


async def unload(http, **fields):
    """Ask to unload the model; return the answer."""
    body = {"model": "fake-detect", **fields}
    async with http.post("/v1/models/unload", json=body) as response:
        assert response.status == 200
        return await response.json()


async def test_a_model_is_removed_while_it_is_loading(data_dir):
    """Nobody has to wait for a load to remove the model."""
    async with slow(data_dir) as http:
        waiting = asyncio.create_task(post(http, "warmup"))
        await becomes(lambda: reads_weights(http))
        async with http.delete("/v1/models/fake-detect") as response:
            assert response.status == 200
        assert await waiting == (503, {"detail": CANCELLED})


async def test_a_cancelled_preload_is_not_tried_again(data_dir):
    """The server follows who cancelled it: the model is loaded by its next request."""
    models = [{"model": "fake-detect", "preload": True}]
    async with slow(data_dir, models=models, seconds=0.5) as http:
        await becomes(lambda: reads_weights(http))
        assert (await post(http, "unload"))[1]["status"] == "unloaded"
        await asyncio.sleep(0.7)
        assert (await info(http))["state"] == "unloaded"
        assert (await post(http, "warmup"))[0] == 200


async def test_what_does_not_fit_says_how_much(data_dir):
    """A 507 has the memory that decided, what was needed, what is free, and the limit."""
    probe = SmallMachine(400_000_000)
    async with slow(data_dir, probe=probe, seconds=0.0) as http:
        await post(http, "warmup")
        await post(http, "pin")
        status, told = await post(http, "warmup", "fake-ocr")
        assert status == 507
        assert told.pop("detail") == (
            "Not enough memory to load fake-ocr: 256 MB of RAM needed, 104 MB free"
        )
        known = {"device": "ram", "needed_mb": 256.0, "free_mb": 104.0, "limit_mb": 360.0}
        assert told == known
        async with http.get("/openapi.json") as response:
            document = await response.json()
        responses = document["paths"]["/v1/models/warmup"]["post"]["responses"]
        named = responses["507"]["content"]["application/json"]["schema"]["$ref"]
        schema = document["components"]["schemas"][named.rpartition("/")[2]]
        assert schema["required"] == ["detail"]
        assert {"detail", *known} == {*schema["properties"]}


async def test_what_does_not_fit_in_a_form_of_another_protocol(data_dir):
    """The protocol's error keeps its form: the sentence has the figures too."""
    entry_points = [testing.FAKE, *testing.installed("oip")]
    probe = SmallMachine(200_000_000)
    async with (
        testing.serving(data_dir, engine="thread", probe=probe, entry_points=entry_points) as made,
        aiohttp.ClientSession(made.url, headers=made.headers) as http,
        http.post("/v2/repository/models/fake-detect/load") as response,
    ):
        sentence = "Not enough memory to load fake-detect: 256 MB of RAM needed, 180 MB free"
        assert (response.status, await response.json()) == (507, {"error": sentence})


async def test_what_does_not_fit_on_a_gpu():
    """The figures are those of the GPU where that decides; what others hold there is not free."""
    rig = Rig(Probe(9000 * MB, [Gpu(total=1000 * MB, used=700 * MB)]), vram_fraction=0.9)
    with pytest.raises(OutOfMemory, match="450 MB on cuda:0 needed, 200 MB free") as refused:
        await rig.touch("a", estimate=450, gpu=True)
    told = refused.value.shortage
    assert (told.device, told.needed_mb, told.free_mb, told.limit_mb) == ("cuda:0", 450, 200, 900)


async def test_a_cancelled_load_gives_its_room_back():
    """What a load had reserved is free for another model as soon as it is cancelled."""
    rig = Rig(Probe(300 * MB))
    rig.gate.clear()
    loading = asyncio.create_task(rig.touch("a", estimate=200))
    await until(lambda: rig.loads == ["a"])
    assert rig.pool.status("a", "detect").loading == (0.0, "worker")
    with pytest.raises(OutOfMemory):
        await rig.touch("b", estimate=200)
    assert await rig.pool.unload("a")
    with pytest.raises(Unavailable, match=CANCELLED):
        await loading
    rig.gate.set()
    await rig.touch("b", estimate=200)
    assert [rig.state(name) for name in "ab"] == ["unloaded", "ready"]


async def test_a_load_that_waits_for_memory_is_cancelled():
    """It says that it waits for memory, for how long, and leaves the models that it waits for."""
    rig = Rig(Probe(300 * MB), {"a": 200}, min_residence=100.0)
    await rig.touch("a", estimate=200)
    loading = asyncio.create_task(rig.touch("b", estimate=200))
    await until(lambda: rig.state("b") == "loading")
    rig.now += 3
    assert rig.pool.status("b", "detect").loading == (3.0, "memory")
    assert await rig.pool.unload("b")
    with pytest.raises(Unavailable, match=CANCELLED):
        await loading
    assert [rig.state(name) for name in "ab"] == ["ready", "unloaded"]


async def test_what_a_cancelled_load_leaves_running_keeps_its_memory():
    """Another model that needs its memory waits until it has ended."""
    end = asyncio.get_running_loop().create_future()

    class Leaving(Rig):
        async def load(self, plan):
            try:
                return await super().load(plan)
            except asyncio.CancelledError:
                LOAD_LEFTOVER.get()(end)
                raise

    rig = Leaving(Probe(300 * MB))
    rig.gate.clear()
    loading = asyncio.create_task(rig.touch("a", estimate=200))
    await until(lambda: rig.loads == ["a"])
    assert await rig.pool.unload("a")
    with pytest.raises(Unavailable, match=CANCELLED) as refused:
        await loading
    assert refused.value.retry_after == 1
    rig.gate.set()
    waiting = asyncio.create_task(rig.touch("b", estimate=200))
    await until(lambda: rig.state("b") == "loading")
    assert rig.pool.status("b", "detect").loading == (0.0, "memory")
    end.set_result(None)
    await waiting
    assert [rig.state(name) for name in "ab"] == ["unloaded", "ready"]


async def test_a_load_is_cancelled_twice():
    """The second time does not interrupt what the first one has the load clean up."""
    cleaned = []

    class Careful(Rig):
        async def load(self, plan):
            self.loads.append(plan.spec.name)
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0.05)
                cleaned.append(plan.spec.name)

    rig = Careful()
    loading = asyncio.create_task(rig.touch("a"))
    await until(lambda: rig.loads == ["a"])
    unloads = [asyncio.create_task(rig.pool.unload("a"))]
    await asyncio.sleep(0)
    unloads.append(asyncio.create_task(rig.pool.unload("a")))
    await asyncio.sleep(0)
    rig.pool.cancel_loads()
    assert await asyncio.gather(*unloads) == [True, True]
    assert cleaned == ["a"]
    with pytest.raises(Unavailable):
        await loading


async def test_a_load_is_cancelled_before_it_begins():
    """The next request loads the model all the same."""
    rig = Rig()
    loading = asyncio.create_task(rig.touch("a"))
    await asyncio.sleep(0)
    assert rig.state("a") == "loading"
    assert await rig.pool.unload("a")
    with pytest.raises(Unavailable, match=CANCELLED):
        await loading
    await rig.touch("a")
    assert (rig.state("a"), rig.loads) == ("ready", ["a"])


async def test_a_load_is_not_cancelled_by_a_reload():
    """Who waits for a model whose settings changed gets it; then it is unloaded."""
    rig = Rig()
    rig.gate.clear()
    loading = asyncio.create_task(rig.touch("a"))
    await until(lambda: rig.loads == ["a"])
    changing = asyncio.create_task(rig.pool.unload("a", None, "changed"))
    await asyncio.sleep(0)
    rig.gate.set()
    await loading
    assert await changing
    assert rig.state("a") == "unloaded"
