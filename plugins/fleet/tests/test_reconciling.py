"""Loading, reconciling and counting with stand-ins for Tritons, on both databases."""

from __future__ import annotations

import asyncio

import pytest
from onnx_files import adding
from stand_in_fleet import until
from test_models import form

from mataserver_fleet.loading import ModelLoader
from mataserver_fleet.placements import Placement
from mataserver_fleet.reconciler import Reconciler

pytestmark = pytest.mark.long

OK = {"status": "ok"}


async def test_load_and_unload(fleets):
    """A model is loaded at all Tritons or one, with what it is made of, and unloaded again."""
    async with fleets(2) as fleet:
        status, done = await fleet.load()
        assert (status, done["status"]) == (200, "ok")
        assert [each["triton"] for each in done["tritons"]] == ["t0", "t1"]
        for triton in fleet.tritons:
            assert triton.models["m"]["files"] == {"1/model.onnx": adding(1)}
            assert triton.models["m"]["config"]["backend"] == "onnxruntime"
        model = await fleet.model()
        assert (model["state"], model["reason"]) == ("ready", "")
        assert [each["state"] for each in model["tritons"]] == ["ready", "ready"]
        address = f"127.0.0.1:{fleet.tritons[0].port}"
        assert model["config"][address]["platform"] == "onnxruntime_onnx"
        _, only = await fleet.client.ask("GET", "/api/models/m?triton_id=t0")
        assert set(only["config"]) == {address}
        seen = (await fleet.state(0, "ready"))["version"]
        assert seen == "2.51.0"
        first = model["tritons"][0]["id"]
        status, done = await fleet.client.ask(
            "POST", "/api/models/m/unload", json={"triton_id": str(first)}
        )
        assert (status, done["status"]) == (200, "ok")
        assert ("m" in fleet.tritons[0].models, "m" in fleet.tritons[1].models) == (False, True)
        status, done = await fleet.client.ask("POST", f"/api/models/m/load?triton_id={first}")
        assert (status, [each["triton"] for each in done["tritons"]]) == (200, ["t0"])
        assert (await fleet.client.ask("POST", "/api/models/m/unload"))[0] == 200
        assert (await fleet.model())["state"] == "unloaded"
        assert not any(triton.models for triton in fleet.tritons)


async def test_what_cannot_be_loaded(fleets):
    """Unknown Tritons, versions and models are told, and so is a fleet without a Triton."""
    async with fleets(1, registered=0) as fleet:
        assert (await fleet.load())[0] == 503
        await fleet.register(0)
        await fleet.model("ready")
        assert (await fleet.load(triton_id="absent"))[0] == 404
        assert (await fleet.load(triton_id=999))[0] == 404
        assert (await fleet.load(versions=[7]))[0] == 422
        assert (await fleet.load(colour="red"))[0] == 422
        assert (await fleet.client.ask("POST", "/api/models/absent/load"))[0] == 404
        await fleet.client.ask("POST", "/api/models", data=form({}, name="empty"))
        assert (await fleet.client.ask("POST", "/api/models/empty/load"))[0] == 409


async def test_versions_are_sent_together(fleets):
    """The newest version is loaded, or those that are asked for, each push with all of them."""
    async with fleets(1) as fleet:
        await fleet.load()
        path = "/api/models/m/versions"
        await fleet.client.ask("POST", path, data=form({"model.onnx": adding(2)}))
        await asyncio.sleep(0.5)
        assert fleet.tritons[0].models["m"]["versions"] == ["1"], "an upload loads nothing"
        assert (await fleet.load())[0] == 200
        assert fleet.tritons[0].models["m"]["versions"] == ["2"]
        assert (await fleet.load(versions=[1, 2]))[0] == 200
        model = fleet.tritons[0].models["m"]
        assert model["versions"] == ["1", "2"]
        assert model["files"] == {"1/model.onnx": adding(1), "2/model.onnx": adding(2)}
        assert (await fleet.client.ask("DELETE", f"{path}/2"))[0] == 409
        assert (await fleet.load(versions=[1]))[0] == 200
        states = {each["version"]: each["state"] for each in (await fleet.model())["versions"]}
        assert states == {"1": "ready", "2": "unloaded"}
        await fleet.client.ask("POST", f"{path}?load=true", data=form({"model.onnx": adding(3)}))
        assert fleet.tritons[0].models["m"]["versions"] == ["3"]


async def test_a_load_that_ends_while_its_triton_is_looked_at(fleets):
    """What the Triton said before is not taken for a loss, and counts for nothing twice."""
    async with fleets(1, timeout=20.0, load_timeout=30.0) as fleet:
        await fleet.load()
        (triton,) = fleet.tritons
        path = "/api/models/m/versions"
        await fleet.client.ask("POST", path, data=form({"model.onnx": adding(2)}))
        triton.asked("m", "1", 5)

        async def is_counted():
            return (await fleet.model())["inference_count"] == "5"

        await until(is_counted)
        loads, looked, loaded, looks = asyncio.Event(), asyncio.Event(), asyncio.Event(), []

        async def load(request):
            loads.set()
            await looked.wait()
            return await triton._load(request)

        async def stats(request):
            looks.append(1)
            told = await triton._stats(request)
            if loads.is_set() and not looked.is_set():
                looked.set()
                await loaded.wait()
            return told

        triton.faults = {"/m/load": load, "/models/stats": stats}
        assert (await fleet.load(versions=[1, 2]))[0] == 200
        loaded.set()
        before = len(looks)
        await until(lambda: asyncio.sleep(0, len(looks) > before + 2))
        model = await fleet.model()
        assert {each["state"] for each in model["versions"]} == {"ready"}
        assert model["inference_count"] == "5"
        assert len(triton.pushes) == 2
        triton.faults = {}


async def test_what_is_asked_while_a_model_is_loaded(fleets):
    """The version that is replaced counts as long as it answers, and nothing counts twice."""
    async with fleets(1, load_timeout=30.0) as fleet:
        await fleet.load()
        (triton,) = fleet.tritons
        goes_on, loads = asyncio.Event(), asyncio.Event()

        async def counted(number):
            async def found():
                return (await fleet.model())["inference_count"] == str(number)

            await until(found)

        async def load(request):
            loads.set()
            await goes_on.wait()
            return await triton._load(request)

        triton.faults = {"/m/load": load}
        sent = {"data": form({"model.onnx": adding(2)})}
        path = "/api/models/m/versions?load=true"
        loading = asyncio.create_task(fleet.client.ask("POST", path, **sent))
        await loads.wait()
        for times in (5, 6):
            triton.asked("m", "1", times)
            await counted(triton.counts["m", "1"])
        goes_on.set()
        assert (await loading)[0] == 201
        triton.asked("m", "2", 3)
        await counted(14)
        triton.faults = {}


async def test_one_that_comes_back_gets_its_models(fleets):
    """A Triton that died and comes back has its models at once; so has one that joins later."""
    async with fleets(2, registered=1) as fleet:
        await fleet.load()
        await fleet.tritons[0].die()
        offline = await fleet.state(0, "offline")
        assert offline["reason"]
        assert (await fleet.model())["state"] == "failed"
        await fleet.tritons[0].start()
        await fleet.model("ready")
        assert fleet.tritons[0].models["m"]["files"] == {"1/model.onnx": adding(1)}
        await fleet.register(1)
        await until(lambda: asyncio.sleep(0, "m" in fleet.tritons[1].models))


async def test_one_that_is_away_is_looked_at_often(fleets):
    """One that comes back does not wait for the next regular look, nor for its metrics."""

    async def hang(_request):
        await asyncio.sleep(60)

    async with fleets(1, registered=0, probe=30.0, timeout=60.0) as fleet:
        fleet.tritons[0].faults = {"/metrics": hang}
        await fleet.register(0)
        await fleet.load()
        await fleet.tritons[0].die()
        words = {"description": "whatever is changed has the Tritons looked at"}
        await fleet.client.ask("PATCH", "/api/models/m", json=words)
        await fleet.state(0, "offline")
        await fleet.tritons[0].start()
        await until(lambda: asyncio.sleep(0, "m" in fleet.tritons[0].models))
        await fleet.state(0, "ready")
        fleet.tritons[0].faults = {}


async def test_drift_is_mended(fleets):
    """What somebody else loaded, unloaded or changed at a Triton is put right."""
    async with fleets(1) as fleet:
        await fleet.load()
        (triton,) = fleet.tritons
        right = triton.models["m"]
        for wrong in (
            None,
            {**right, "versions": ["9"], "config": {}},
            {**right, "config": {**right["config"], "parameters": {}}, "files": {}},
        ):
            triton.models.pop("m")
            if wrong is not None:
                triton.models["m"] = wrong
            await until(lambda: asyncio.sleep(0, triton.models.get("m") == right))


async def test_drift_during_a_load(fleets):
    """What is lost or changed before a load was seen to be done is sent again, and at once."""
    async with fleets(1, load_timeout=60.0) as fleet:
        await fleet.load()
        (triton,) = fleet.tritons
        right = triton.models["m"]
        for wrong in ({}, {"m": {**right, "versions": ["9"], "config": {}}}):
            triton.disturb = lambda wrong=wrong: setattr(triton, "models", wrong)
            triton.models = {}
            await until(lambda: asyncio.sleep(0, triton.disturb is None))
            await until(lambda: asyncio.sleep(0, triton.models.get("m") == right))
        assert (await fleet.model("ready"))["reason"] == ""


async def test_what_is_served_late_is_no_failure():
    """A placement that failed rests where another version of ours serves, and else is mended."""
    facts = {"wanted": True, "generation": 1, "done": 1, "state": "failed", "reason": "late"}
    reconciler = Reconciler(None, None, None, 1.0)
    for versions, digest, settled in (((2,), "d", False), ((3,), "d", True), ((3,), "", False)):
        what = {"versions": versions, "digest": digest}
        placed = Placement(1, "m", serving=(2,), last_good=(2,), **what, **facts)
        assert await reconciler.is_settled(placed, (2,), deep=False) == settled


async def test_a_version_that_fails(fleets):
    """It is told, also to those who read; what served before serves on, and after a restart."""
    async with fleets(2) as fleet:
        await fleet.load()
        bad = adding(13)
        for triton in fleet.tritons:
            triton.refuse = lambda files: "bad file\ntraceback" if bad in files.values() else None
        await fleet.client.ask("POST", "/api/models/m/versions", data=form({"model.onnx": bad}))
        status, done = await fleet.load()
        assert (status, done["status"]) == (502, "partial")
        assert done["error"] == done["detail"] == "m is not loaded at t0: bad file"
        assert {each["reason"] for each in done["tritons"]} == {"bad file\ntraceback"}
        for triton in fleet.tritons:
            assert triton.models["m"]["files"] == {"1/model.onnx": adding(1)}
        token = await fleet.client.person("vera", "viewer")
        _, model = await fleet.client.ask("GET", "/api/models/m", token)
        assert (model["state"], model["reason"]) == ("failed", "t0: bad file")
        assert model["tritons"][0]["versions"] == ["1"]
        pushes = len(fleet.tritons[0].pushes)
        await asyncio.sleep(0.5)
        assert len(fleet.tritons[0].pushes) == pushes, "a lasting failure is not tried again"
        await fleet.tritons[0].die()
        await fleet.state(0, "offline")
        await fleet.tritons[0].start()
        await until(lambda: asyncio.sleep(0, "m" in fleet.tritons[0].models))
        assert fleet.tritons[0].models["m"]["files"] == {"1/model.onnx": adding(1)}
        await fleet.state(0, "ready")  # else the load is refused, as it is away
        for triton in fleet.tritons:
            triton.refuse = None
        assert (await fleet.load())[0] == 200
        assert (await fleet.model())["state"] == "ready"


async def test_a_load_right_after_the_registration(fleets):
    """What is wanted of a Triton that nobody asked yet waits for the first look at it."""
    async with fleets(2, registered=0) as fleet:
        await fleet.tritons[1].die()
        for number, triton in enumerate(fleet.tritons):
            body = {"name": f"t{number}", "host": "127.0.0.1", "port": triton.port}
            await fleet.client.made("/api/tritons", body)
        status, done = await fleet.load()
        told = [(each["status"], "is away" in each["reason"]) for each in done["tritons"]]
        assert (status, told) == (502, [("ok", False), ("waiting", True)])


async def test_one_of_two_is_away(fleets):
    """A load tells which Triton is away; that one is loaded when it comes back."""
    async with fleets(2) as fleet:
        await fleet.tritons[1].die()
        await fleet.state(1, "offline")
        status, done = await fleet.load()
        assert (status, [each["status"] for each in done["tritons"]]) == (502, ["ok", "waiting"])
        model = await fleet.model()
        assert (model["state"], model["reason"]) == ("partial", "t1: The Triton is offline")
        told = [(each["state"], each["reason"]) for each in model["tritons"]]
        assert told == [("ready", ""), ("failed", "The Triton is offline")]
        await fleet.tritons[1].start()
        await fleet.model("ready")
        assert "m" in fleet.tritons[1].models


async def test_counts(fleets):
    """What was asked is counted over Tritons, reloads, restarts and unloads."""
    async with fleets(2) as fleet:
        await fleet.load()
        for triton, times in zip(fleet.tritons, (3, 4), strict=True):
            triton.asked("m", "1", times)

        async def counted(number):
            async def found():
                model = await fleet.model()
                return model if model["inference_count"] == str(number) else None

            return await until(found)

        model = await counted(7)
        assert (model["versions"][0]["inference_count"], model["execution_count"]) == ("7", "7")
        assert model["last_inference"].endswith("+00:00")
        await fleet.tritons[0].die()
        await fleet.state(0, "offline")
        await fleet.tritons[0].start()
        await fleet.model("ready")
        fleet.tritons[0].asked("m", "1", 5)
        await counted(12)
        await fleet.client.ask("POST", "/api/models/m/unload")
        await fleet.load()
        await fleet.load()
        fleet.tritons[0].asked("m", "1", 6)
        await counted(18)
        await fleet.client.ask(
            "POST", "/api/models/m/versions?load=true", data=form({"model.onnx": adding(2)})
        )
        fleet.tritons[1].asked("m", "2", 1)
        model = await counted(19)
        assert [each["inference_count"] for each in model["versions"]] == ["1", "18"]
        asked = 'mataserver_fleet_inferences_total{model="m",triton="t1",version="2"} 1.0'

        async def told():
            return asked in (await fleet.client.ask("GET", "/metrics"))[1]

        await until(told)
        _, metrics = await fleet.client.ask("GET", "/metrics")
        for line in (
            'mataserver_fleet_triton_up{triton="t0"} 1.0',
            'mataserver_fleet_model_ready{model="m",triton="t0"} 1.0',
            'mataserver_fleet_gpu_memory_used_bytes{gpu="GPU-1",triton="t0"} 1e+09',
        ):
            assert line in metrics


async def test_a_triton_in_use(fleets):
    """One that has models is forgotten by force alone; a model is unloaded before it is removed."""
    async with fleets(2) as fleet:
        await fleet.load()
        assert (await fleet.client.ask("DELETE", "/api/tritons/t0"))[0] == 409
        assert (await fleet.client.ask("DELETE", "/api/tritons/t0?force=true")) == (200, OK)
        assert await fleet.client.ask("DELETE", "/api/models/m") == (200, OK)
        assert fleet.tritons[1].models == {}


async def test_a_model_that_is_loaded_while_it_is_removed(fleets, monkeypatch):
    """It stays: its Triton would serve it for ever, and nobody would know."""
    async with fleets(1) as fleet:
        await fleet.load()
        unload = ModelLoader.unload

        async def unload_and_load(self, *given):
            done = await unload(self, *given)
            assert (await fleet.load())[0] == 200
            return done

        with monkeypatch.context() as patched:
            patched.setattr(ModelLoader, "unload", unload_and_load)
            assert (await fleet.client.ask("DELETE", "/api/models/m?force=true"))[0] == 409
        assert (await fleet.model())["state"] == "ready"
        assert await fleet.client.ask("DELETE", "/api/models/m") == (200, OK)
        assert fleet.tritons[0].models == {}
