"""Models that are removed while a Triton cannot unload them, with stand-ins, on both databases."""

from __future__ import annotations

import asyncio

import pytest
import sqlalchemy as sa
from aiohttp import web
from onnx_files import adding
from stand_in_fleet import until
from test_models import push

from mataserver_database import Database
from mataserver_fleet.tables import LEFTOVERS

pytestmark = pytest.mark.long


async def cut_off(fleet, number=0):
    """Cut a Triton off."""
    await fleet.tritons[number].cut_off()
    await fleet.state(number, "offline")


async def come_back(fleet, number=0):
    """Have a Triton be there again as it was."""
    await fleet.tritons[number].start()
    await fleet.state(number, "ready")


async def remove(fleet):
    """Remove the model."""
    assert (await fleet.client.ask("DELETE", "/api/models/m"))[0] == 200
    assert (await fleet.client.ask("GET", "/api/models/m"))[0] == 404


async def forgotten(folder, url):
    """Wait until nothing is known to be left at any Triton."""
    database = Database(folder, url)

    async def is_so():
        async with database.read() as connection:
            return not (await connection.execute(sa.select(LEFTOVERS))).first()

    try:
        await until(is_so)
    finally:
        await database.close()


async def test_a_model_that_is_removed_while_its_triton_is_away(fleets, url, tmp_path):
    """It is unloaded once the Triton is back, and then nothing is kept of that."""
    async with fleets(2) as fleet:
        assert (await fleet.load())[0] == 200
        await cut_off(fleet)
        await remove(fleet)
        assert [set(each.models) for each in fleet.tritons] == [{"m"}, set()]
        await come_back(fleet)
        await until(lambda: asyncio.sleep(0, not fleet.tritons[0].models))
        await forgotten(tmp_path, url)


async def test_a_model_that_is_removed_while_it_is_loaded(fleets):
    """It is unloaded once the Triton has loaded it, which may be after the load was given up."""
    async with fleets(1, load_timeout=1.0) as fleet:
        (triton,) = fleet.tritons
        loading, go_on = asyncio.Lock(), asyncio.Event()

        async def load(request):
            async with loading:
                await request.read()
                await go_on.wait()
                return await triton._load(request)

        async def unload(request):
            async with loading:  # as Triton: a load in progress is waited for
                return await triton._unload(request)

        triton.faults = {"/m/load": load, "/m/unload": unload}
        assert (await fleet.load())[0] == 502
        assert (await fleet.client.ask("DELETE", "/api/models/m"))[0] == 200
        go_on.set()
        await until(lambda: asyncio.sleep(0, len(triton.pushes) == 1))
        await until(lambda: asyncio.sleep(0, not triton.models))


async def test_a_triton_that_loads_and_unloads_nothing(fleets, url, tmp_path):
    """A model that it never loaded is removed all the same, and is not unloaded for ever."""
    async with fleets(1) as fleet:

        async def refused(_request):
            said = {"error": "explicit model load / unload is not allowed if polling is enabled"}
            return web.json_response(said, status=503)

        fleet.tritons[0].faults = {"/m/load": refused, "/m/unload": refused}
        assert (await fleet.load())[0] == 502
        status, done = await fleet.client.ask("POST", "/api/models/m/unload")
        assert (status, done["status"]) == (200, "ok")
        await fleet.load()
        await cut_off(fleet)
        await remove(fleet)
        await come_back(fleet)
        await forgotten(tmp_path, url)


async def test_what_has_the_name_of_a_removed_model(fleets, url, tmp_path):
    """It stays: a model that is loaded anew, and one that somebody else has loaded."""
    async with fleets(2) as fleet:
        assert (await fleet.load())[0] == 200
        for number in (0, 1):
            await cut_off(fleet, number)
        await remove(fleet)
        await push(fleet.client, "m", {"model.onnx": adding(7)})
        await fleet.load(triton_id="t0")
        foreign = {"config": {"name": "m"}, "files": {}, "versions": ["1"]}
        fleet.tritons[1].models["m"] = foreign
        for number in (0, 1):
            await come_back(fleet, number)
        await fleet.model("ready")
        await forgotten(tmp_path, url)
        assert fleet.tritons[0].models["m"]["files"] == {"1/model.onnx": adding(7)}
        assert fleet.tritons[1].models["m"] == foreign


class HeldUnloads:
    """A stand-in's unloads, of which the first waits for ``go_on``; ``told`` are their names."""

    def __init__(self, triton):
        self.told, self.looks, self.go_on = [], 0, asyncio.Event()
        self._triton = triton
        triton.faults = {"/unload": self._unload, "/load": self._load, "/stats": self._stats}

    async def _unload(self, request):
        name = request.match_info["model"]
        self.told.append(f"unload {name}")
        if len(self.told) == 1:
            await self.go_on.wait()
        answer = await self._triton._unload(request)
        self.told.append(f"unloaded {name}")
        return answer

    async def _load(self, request):
        self.told.append(f"load {request.match_info['model']}")
        return await self._triton._load(request)

    async def _stats(self, request):
        self.looks += 1
        return await self._triton._stats(request)

    async def looked(self, times):
        """Wait until the Triton has been looked at so many times more."""
        wanted = self.looks + times
        await until(lambda: asyncio.sleep(0, self.looks >= wanted))


async def test_a_model_that_is_loaded_anew_while_another_is_unloaded(fleets, url, tmp_path):
    """It stays: what is left at the Triton is asked again before each unload, which takes long."""
    async with fleets(1) as fleet:
        (triton,) = fleet.tritons
        await push(fleet.client, "n", {"model.onnx": adding(2)})
        for name in ("m", "n"):
            assert (await fleet.client.ask("POST", f"/api/models/{name}/load", json={}))[0] == 200
        await cut_off(fleet)
        for name in ("m", "n"):
            assert (await fleet.client.ask("DELETE", f"/api/models/{name}"))[0] == 200
        held = HeldUnloads(triton)
        await come_back(fleet)
        await until(lambda: asyncio.sleep(0, held.told))
        first = held.told[0].removeprefix("unload ")
        (other,) = {"m", "n"} - {first}
        await push(fleet.client, other, {"model.onnx": adding(7)})
        assert (await fleet.client.ask("POST", f"/api/models/{other}/load", json={}))[0] == 200
        held.go_on.set()
        await forgotten(tmp_path, url)
        await held.looked(2)
        assert held.told == [f"unload {first}", f"load {other}", f"unloaded {first}"]
        assert set(triton.models) == {other}


async def test_a_model_that_is_loaded_anew_while_it_is_unloaded(fleets, url, tmp_path):
    """It is sent after the unload, which would undo it."""
    async with fleets(1) as fleet:
        (triton,) = fleet.tritons
        assert (await fleet.load())[0] == 200
        await cut_off(fleet)
        await remove(fleet)
        held = HeldUnloads(triton)
        await come_back(fleet)
        await until(lambda: asyncio.sleep(0, held.told))
        await push(fleet.client, "m", {"model.onnx": adding(7)})
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fleet.load())
            await fleet.model("loading")
            await held.looked(3)
            held.go_on.set()
        await fleet.model("ready")
        await forgotten(tmp_path, url)
        assert held.told == ["unload m", "unloaded m", "load m"]
        assert triton.models["m"]["files"] == {"1/model.onnx": adding(7)}
