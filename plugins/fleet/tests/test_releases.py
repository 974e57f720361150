"""New versions that are loaded at once, and the way back from a bad one, with stand-ins."""

from __future__ import annotations

import contextlib
import sqlite3

import pytest
from onnx_files import adding
from stand_in_fleet import FAST, Fleet, until
from stand_in_triton import stand_ins
from test_models import form, push

pytestmark = pytest.mark.long

BAD = adding(13)


def refuse(files):
    """Refuse the bad version as a Triton does."""
    return "bad file\ntraceback" if BAD in files.values() else None


async def add(fleet, number, query="", method="POST", token=None):
    """Add a version that adds a number; return status and answer."""
    path = "/api/models/m" + ("/versions" if method == "POST" else "") + query
    return await fleet.client.ask(method, path, token, data=form({"model.onnx": adding(number)}))


@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_a_version_that_is_loaded_at_once(fleets, method):
    """What came of it at each Triton is told; one that could not be loaded is there, and wanted."""
    async with fleets(2) as fleet:
        status, told = await add(fleet, 2, "?load=true", method)
        assert (status, told["status"]) == ({"POST": 201, "PATCH": 200}[method], "ok")
        if method == "POST":
            places = [(each["triton"], each["status"]) for each in told["tritons"]]
            assert (told["version"], places) == ("2", [("t0", "ok"), ("t1", "ok")])
        _, model = await fleet.client.ask("GET", "/api/models/m")
        assert (model["latest_version"], model["state"]) == ("2", "ready")
        tag = fleet.client.headers["ETag"]
        fleet.tritons[1].refuse = refuse
        status, told = await add(fleet, 13, "?load=true", method)
        assert (status, told["status"], told["version"]) == (502, "partial", "3")
        assert fleet.client.headers["ETag"] != tag
        assert told["detail"] == told["error"] == "m is not loaded at t1: bad file"
        assert [each["status"] for each in told["tritons"]] == ["ok", "failed"]
        assert [each["reason"] for each in told["tritons"]] == ["", "bad file\ntraceback"]
        tag = fleet.client.headers["ETag"]
        _, model = await fleet.client.ask("GET", "/api/models/m")
        assert fleet.client.headers["ETag"] == tag
        assert [each["wanted"] for each in model["tritons"]] == [["3"], ["3"]]
        assert fleet.tritons[1].models["m"]["versions"] == ["2"], "the one before serves on"


async def test_a_version_without_a_triton(fleets):
    """Where there is none to load it at, that is told, and the version is there."""
    async with fleets(1, registered=0) as fleet:
        status, told = await add(fleet, 2, "?load=true")
        assert (status, told["version"], told["tritons"]) == (503, "2", [])
        assert told["detail"].startswith("There is no Triton")
        await fleet.register(0)
        await fleet.model("ready")
        assert fleet.tritons[0].models["m"]["versions"] == ["2"]


async def roll_back(fleet):
    """Roll the model back; return status and answer."""
    return await fleet.client.ask("POST", "/api/models/m/rollback")


async def test_the_way_back_leads_to_a_version_that_loaded(fleets):
    """What never could be loaded is passed over, also where it is newer, and so at new Tritons."""
    async with fleets(3, registered=2) as fleet:
        assert (await roll_back(fleet))[1]["error"] == "m is not wanted anywhere"
        await fleet.load()
        assert (await roll_back(fleet))[0] == 409
        for triton in fleet.tritons:
            triton.refuse = refuse
        assert (await add(fleet, 13, "?load=true"))[0] == 502
        assert (await add(fleet, 3, "?load=true"))[0] == 201
        assert fleet.tritons[0].models["m"]["versions"] == ["3"]
        status, told = await roll_back(fleet)
        assert (status, [each["triton"] for each in told["tritons"]]) == (200, ["t0", "t1"])
        for triton in fleet.tritons[:2]:
            assert triton.models["m"]["versions"] == ["1"]
        await fleet.register(2)
        await fleet.model("ready")
        assert fleet.tritons[2].models["m"]["versions"] == ["1"]
        status, told = await roll_back(fleet)
        assert (status, told["error"]) == (409, "m has no version before 1 that was ever loaded")


async def test_the_way_back_where_versions_differ(fleets):
    """Only where a newer version is wanted something changes; what is wanted nowhere stays so."""
    async with fleets(3) as fleet:
        await fleet.load(versions=[1], triton_id="t0")
        await add(fleet, 2)
        await fleet.load(versions=[1, 2], triton_id="t1")
        pushes = len(fleet.tritons[0].pushes)
        status, told = await roll_back(fleet)
        assert (status, [each["triton"] for each in told["tritons"]]) == (200, ["t1"])
        assert fleet.tritons[1].models["m"]["versions"] == ["1"]
        assert len(fleet.tritons[0].pushes) == pushes
        assert fleet.tritons[2].models == {}


async def test_the_way_back_keeps_what_shares_the_traffic(fleets):
    """Of a canary the older version stays: without it most of the traffic had nobody to answer."""
    async with fleets(1) as fleet:
        await fleet.load(versions=[1], triton_id="t0")
        assert (await add(fleet, 2, "?load=true"))[0] == 201
        await add(fleet, 3)
        await fleet.load(versions=[1, 3], triton_id="t0")
        assert (await roll_back(fleet))[0] == 200
        assert fleet.tritons[0].models["m"]["versions"] == ["1", "2"]


@pytest.mark.parametrize("url", [None])
async def test_the_way_back_in_a_fleet_of_before(serve, tmp_path):
    """What a Triton was seen to serve before that was kept counts as a version that loaded."""
    async with stand_ins(1) as (triton,):
        async with serve(fleet=FAST) as client:
            fleet = Fleet(client, [triton])
            await fleet.register(0)
            await push(client, "m", {"model.onnx": adding(1)})
            await fleet.load()
            triton.asked("m", "1")

            async def counted():
                return (await fleet.model())["inference_count"] == "1"

            await until(counted)
            triton.refuse = refuse
            assert (await add(fleet, 13, "?load=true"))[0] == 502
            assert (await add(fleet, 3, "?load=true"))[0] == 201
        with contextlib.closing(sqlite3.connect(tmp_path / "mataserver.db")) as old, old:
            old.execute("ALTER TABLE fleet_versions DROP COLUMN served_at")
            old.execute("DROP TABLE fleet_leftovers")
            old.execute("UPDATE fleet_version SET version_num = '0002'")
        async with serve(fleet=FAST) as client:
            fleet = Fleet(client, [triton])
            assert (await roll_back(fleet))[0] == 200
            assert triton.models["m"]["versions"] == ["1"]
