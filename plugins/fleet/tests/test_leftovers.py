"""Models that are removed while a Triton cannot unload them, with stand-ins, on both databases."""

from __future__ import annotations

import asyncio

import sqlalchemy as sa
from aiohttp import web
from onnx_files import adding
from stand_in_fleet import until
from test_models import push

from mataserver_database import Database
from mataserver_fleet.tables import LEFTOVERS


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
