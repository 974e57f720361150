"""Versions that are removed: nothing names them, and no other is given their number."""

from __future__ import annotations

from jsonschema_rs import is_valid
from onnx_files import adding
from stand_in_fleet import until
from test_models import OK, form, push
from test_releases import add

VERSIONS = "/api/models/m/versions"


async def test_a_number_is_never_anothers(client):
    """The next version gets a number that none had; the version that had it may be sent again."""
    await push(client, "m", {"model.onnx": adding(1)})
    for number in (2, 3):
        await client.ask("POST", VERSIONS, data=form({"model.onnx": adding(number)}))
    for number in (2, 3):
        assert await client.ask("DELETE", f"{VERSIONS}/{number}") == OK
    status, added = await client.ask("POST", VERSIONS, data=form({"model.onnx": adding(4)}))
    assert (status, added["version"]) == (201, "4")
    for files, fields in (
        ({"model.onnx": adding(9)}, {"version": 2}),
        ({"3/model.onnx": adding(9)}, {}),
    ):
        status, told = await client.ask("POST", VERSIONS, data=form(files, **fields))
        assert (status, "had another version" in told["detail"]) == (409, True)
    again = form({"model.onnx": adding(3)}, version=3)
    status, added = await client.ask("POST", VERSIONS, data=again)
    assert (status, added["version"]) == (201, "3")
    assert await client.ask("DELETE", f"{VERSIONS}/3") == OK
    assert await client.ask("DELETE", f"{VERSIONS}/4") == OK
    assert await client.ask("DELETE", f"{VERSIONS}/1") == OK
    status, added = await client.ask("POST", VERSIONS, data=form({"model.onnx": adding(5)}))
    assert (status, added["version"]) == (201, "5")


async def test_after_the_highest_number_there_is_no_next_one(client):
    """A version without a number is refused, as no route would take it; a free one is accepted."""
    await push(client, "m", {"model.onnx": adding(1)})
    highest = form({"model.onnx": adding(2)}, version=999_999_999)
    assert (await client.ask("POST", VERSIONS, data=highest))[0] == 201
    assert await client.ask("DELETE", f"{VERSIONS}/999999999") == OK
    status, told = await client.ask("POST", VERSIONS, data=form({"model.onnx": adding(3)}))
    assert (status, "999999999, the highest" in told["detail"]) == (409, True)
    status, added = await client.ask("POST", VERSIONS, data=form({"2/model.onnx": adding(3)}))
    assert (status, added["version"]) == (201, "2")


async def test_no_route_names_it(client):
    """Neither a share of the requests nor a mirror of a route is a version that was removed."""
    await push(client, "m", {f"{n}/model.onnx": adding(n) for n in (1, 2, 3)})
    await client.made("/api/apps", {"name": "shop"})
    shares = {"weights": {"1": 1, "2": 0, "3": 1}, "mirror": "3"}
    await client.made("/api/apps/shop/routes/m", shares)
    await client.ask("GET", "/api/apps/shop")
    before = client.headers["ETag"]
    assert (await client.ask("DELETE", f"{VERSIONS}/3"))[0] == 409
    assert await client.ask("DELETE", f"{VERSIONS}/3?force=true") == OK
    _, app = await client.ask("GET", "/api/apps/shop")
    assert (app["routes"][0]["weights"], app["routes"][0]["mirror"]) == ({"1": 1, "2": 0}, None)
    assert client.headers["ETag"] != before
    assert await client.ask("DELETE", f"{VERSIONS}/1?force=true") == OK
    _, app = await client.ask("GET", "/api/apps/shop")
    assert app["routes"][0]["weights"] == {}, "a share of 0 alone would lead nowhere"


async def test_the_others_stay_loaded(fleets):
    """By force one of two that are loaded goes: a Triton that restarts is sent the other."""
    async with fleets(1) as fleet:
        await add(fleet, 2)
        await fleet.load(versions=[1, 2])
        assert (await fleet.client.ask("DELETE", f"{VERSIONS}/2"))[0] == 409
        assert await fleet.client.ask("DELETE", f"{VERSIONS}/2?force=true") == OK

        async def served():
            model = await fleet.model("ready")
            found = fleet.tritons[0].models.get("m", {}).get("versions")
            return (model["everywhere"], found) == (["1"], ["1"])

        await until(served)
        fleet.tritons[0].models.clear()
        await until(served)
        assert await fleet.client.ask("DELETE", f"{VERSIONS}/1?force=true") == OK

        async def unloaded():
            model = await fleet.model()
            return (model["everywhere"], model["tritons"], model["versions"]) == ([], [], [])

        await until(unloaded)
        assert not fleet.tritons[0].models


async def test_a_version_that_new_tritons_are_to_have(fleets):
    """What is wanted everywhere is in use also while there is no Triton."""
    async with fleets(1, registered=0) as fleet:
        await fleet.load()
        status, told = await fleet.client.ask("DELETE", f"{VERSIONS}/1")
        assert (status, "wanted at every Triton" in told["detail"]) == (409, True)


async def test_a_documents_version_is_no_null(client):
    """The schema of each change says what the server does: a ``version`` of null is refused."""
    await client.made("/api/consumers", {"name": "till"})
    given = {"rate": 5, "version": None}
    status, told = await client.ask("PATCH", "/api/consumers/till", json=given)
    assert (status, told["detail"].startswith("version: ")) == (422, True)
    _, document = await client.ask("GET", "/openapi.json")
    schemas = document["components"]["schemas"]
    changes = {
        name: each["properties"] for name, each in schemas.items() if name.endswith("Change")
    }
    found = {name: fields["version"] for name, fields in changes.items() if "version" in fields}
    assert len(found) == 6, "of Tritons, models, applications, routes, consumers and users"
    assert [name for name, each in found.items() if is_valid(each, None)] == []
