"""Two requests at the same moment, in PostgreSQL, where neither would see what the other writes."""

from __future__ import annotations

import asyncio
import uuid

import pytest
import sqlalchemy as sa
from onnx_files import adding
from stand_in_fleet import until
from stand_in_triton import stand_ins
from test_models import form, push

WAITING = sa.text(
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE datname = current_database() AND wait_event_type = 'Lock'"
)


@pytest.fixture
async def url(request, template):
    """Where the test's database is."""
    return await template.database(request.getfixturevalue("postgres"), f"test_{uuid.uuid4().hex}")


async def at_once(client, first, second):
    """Ask both, the second one while the first has yet to commit; return both statuses.

    The first goes on once the second is as far, or waits for it.
    """
    store = client.server.service("fleet")._components.store
    bump, is_held, goes_on = store.bump_version, asyncio.Event(), asyncio.Event()

    async def held(connection):
        if is_held.is_set():
            goes_on.set()
        is_held.set()
        await goes_on.wait()
        await bump(connection)

    store.bump_version = held
    try:
        tasks = [asyncio.create_task(client.ask(*first[:2], **first[2]))]
        await is_held.wait()
        tasks.append(asyncio.create_task(client.ask(*second[:2], **second[2])))
        async with asyncio.timeout(20):
            while not goes_on.is_set() and not tasks[1].done():
                async with store.read() as connection:
                    if await connection.scalar(WAITING):
                        break
        goes_on.set()
        return [status for status, _ in await asyncio.gather(*tasks)]
    finally:
        store.bump_version = bump


async def test_a_triton_that_joins_while_a_model_is_wanted_everywhere(serve):
    """It gets the model, whichever of the two is first."""
    async with stand_ins(2) as tritons, serve(fleet={"probe": 60.0}) as client:
        await push(client, "m", {"model.onnx": adding(1)})
        bodies = [
            {"json": {"name": f"t{number}", "host": "127.0.0.1", "port": triton.port}}
            for number, triton in enumerate(tritons)
        ]
        join, load = ("POST", "/api/tritons"), ("POST", "/api/models/m/load", {})
        assert await at_once(client, (*join, bodies[0]), load) == [201, 200]

        async def is_seen():
            return (await client.ask("GET", "/api/tritons/t0"))[1]["state"] == "ready"

        await until(is_seen)
        assert (await client.ask("POST", "/api/models/m/unload"))[0] == 200
        assert await at_once(client, load, (*join, bodies[1])) == [200, 201]
        _, model = await client.ask("GET", "/api/models/m")
        assert {each["name"]: each["wanted"] for each in model["tritons"]} == {
            "t0": ["1"],
            "t1": ["1"],
        }


async def test_a_path_that_two_applications_take(client):
    """One of them gets it: a path leads to one model."""
    for name in ("a", "b"):
        await client.made("/api/apps", {"name": name, "host": "shop.example"})
        await push(client, f"m{name}", {"model.onnx": adding(1)})
    asked = [
        ("POST", f"/api/apps/{name}/routes/m{name}", {"json": {"paths": ["/x"]}}) for name in "ab"
    ]
    assert await at_once(client, *asked) == [201, 409]


async def test_a_model_that_goes_while_it_is_offered(client):
    """There is no route to a model, or to a version, that is not there."""
    await client.made("/api/apps", {"name": "a"})
    await push(client, "m", {"model.onnx": adding(1)})
    await client.ask("POST", "/api/models/m/versions", data=form({"model.onnx": adding(2)}))
    offer = ("POST", "/api/apps/a/routes/m", {"json": {"weights": {"1": 1.0}}})
    assert await at_once(client, ("DELETE", "/api/models/m/versions/1", {}), offer) == [200, 422]
    remove, bare = ("DELETE", "/api/models/m", {}), ("POST", "/api/apps/a/routes/m", {})
    assert await at_once(client, bare, remove) == [201, 409]
    await client.ask("DELETE", "/api/apps/a/routes/m")
    # The model is unloaded first, in a transaction of its own, behind which the route may come.
    assert await at_once(client, remove, bare) in ([200, 404], [409, 201])
