"""The gateway goes by what the API says, at once, and tells what it counted."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import csv
import io
import types

import pytest
import sqlalchemy as sa
from PIL import Image
from upstreams import Upstream

from mataserver.testing import installed
from mataserver_database import Database
from mataserver_database.testing import running_postgres
from mataserver_fleet.gateway import reading, updating
from mataserver_fleet.gateway.dataplane import as_cell
from mataserver_fleet.gateway.usage import Subject
from mataserver_fleet.store import Store
from mataserver_fleet.tables import MODELS, SCHEMA, TRITONS

INFER = "/gateway/shop/v2/models/cats/infer"


@pytest.fixture
async def upstream():
    """A server that has every model."""
    made = Upstream("one")
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def tables(url, tmp_path):
    """The tables, with a model that is wanted on every Triton, as another process sees them."""
    database = Database(tmp_path, url)
    await database.migrate(SCHEMA)
    await add_model(database)
    yield database
    await database.close()


async def add_model(database):
    """Add a model that is wanted on every Triton."""
    row = {"name": "cats", "description": "", "everywhere": True, "everywhere_versions": "[]"}
    async with database.begin() as connection:
        await connection.execute(sa.insert(MODELS).values(**row, created_at=0.0, revision=1))


async def shop(client, upstream, **more):
    """Register the server, make an application with the model and a consumer; return its key."""
    await client.made("/api/tritons", {"name": "one", "host": "127.0.0.1", "port": upstream.port})
    await client.made("/api/apps", {"name": "shop", **more})
    await client.made("/api/apps/shop/routes/cats")
    return (await client.made("/api/apps/shop/consumers/till"))["key"]


async def asked(client, key, path=INFER, **more):
    """Ask as a consumer; return status and answer."""
    return await client.ask("POST", path, "", headers={"apikey": key}, data=b"{}", **more)


@pytest.mark.undocumented("at an application's host its paths are answered, and not the server's")
async def test_what_the_api_makes_is_served_at_once(tables, serve, upstream):
    """Each change is in force when it is answered: made, linked, rotated, unlinked, removed."""
    async with serve() as client:
        key = await shop(client, upstream, host="shop.example")
        assert (await asked(client, key))[0] == 200
        host = {"apikey": key, "Host": "shop.example"}
        status, _ = await client.ask("POST", "/v2/models/cats/infer", "", headers=host, data=b"{}")
        assert status == 200
        rotated = (await client.made("/api/apps/shop/consumers/till/key", status=200))["key"]
        assert (await asked(client, key))[0] == 401
        assert (await asked(client, rotated))[0] == 200
        assert (await client.ask("DELETE", "/api/apps/shop/consumers/till"))[0] == 200
        assert (await asked(client, rotated))[0] == 403
        await client.made("/api/apps/shop/consumers/till")
        assert (await client.ask("DELETE", "/api/apps/shop/routes/cats"))[0] == 200
        assert (await asked(client, rotated))[0] == 404
        await client.made("/api/apps/shop/routes/cats")
        assert (await asked(client, rotated))[0] == 200
        assert (await client.ask("DELETE", "/api/apps/shop"))[0] == 200
        assert (await asked(client, rotated))[0] == 404


async def test_what_a_route_says(tables, serve, upstream):
    """Weights, a mirror and paths of one's own are those of the gateway's next request."""
    async with serve() as client:
        key = await shop(client, upstream)
        change = {"paths": ["/look"]}
        assert (await client.ask("PATCH", "/api/apps/shop/routes/cats", json=change))[0] == 200
        assert (await asked(client, key))[0] == 404
        status, answer = await asked(client, key, "/gateway/shop/look/versions/7/infer")
        assert (status, answer["path"]) == (200, "/v2/models/cats/versions/7/infer")


async def test_what_another_process_changes(tables, serve, upstream):
    """A change that another server made is in force within a second."""
    async with serve() as client:
        key = await shop(client, upstream)
        assert (await asked(client, key))[0] == 200
        async with Store(tables).change() as connection:
            await connection.execute(sa.delete(TRITONS))
        async with asyncio.timeout(1.0):
            while (await asked(client, key))[0] != 503:
                await asyncio.sleep(0.02)


async def test_a_change_that_there_is_no_memory_to_read(tables, serve, upstream, monkeypatch):
    """It is stored and answered so, ``/ready`` tells, and it is in force once it can be read."""
    async with serve() as client:
        key = await shop(client, upstream)
        made, has_memory = reading.snapshot, asyncio.Event()

        def short(*given):
            if not has_memory.is_set():
                raise MemoryError
            return made(*given)

        monkeypatch.setattr(reading, "snapshot", short)
        assert (await client.ask("DELETE", "/api/apps/shop/consumers/till"))[0] == 200
        assert (await asked(client, key))[0] == 200
        assert (await client.ask("GET", "/ready"))[0] == 503
        has_memory.set()
        async with asyncio.timeout(20):
            while (await asked(client, key))[0] != 403:
                await asyncio.sleep(0.05)
        assert (await client.ask("GET", "/ready"))[0] == 200


async def test_a_change_that_there_is_no_thread_to_read(tables, serve, upstream, monkeypatch):
    """It is read without one, and in force at once."""
    async with serve() as client:
        key = await shop(client, upstream)

        async def no_thread(*_given):
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(updating, "asyncio", types.SimpleNamespace(**vars(asyncio)))
        monkeypatch.setattr(updating.asyncio, "to_thread", no_thread)
        assert (await client.ask("DELETE", "/api/apps/shop/consumers/till"))[0] == 200
        assert (await asked(client, key))[0] == 403


async def test_usage_is_kept(tables, serve, upstream):
    """What consumers asked stands in the CSV and in the metrics, and outlives a restart."""
    async with serve(fleet={"gateway": {"settle": 0.1}}) as client:
        key = await shop(client, upstream)
        for _ in range(3):
            assert (await asked(client, key))[0] == 200
        (row,) = await usage(client)
        assert (row["consumer"], row["application"], row["model"]) == ("till", "shop", "cats")
        assert (row["requests"], row["failed"], row["bytes_in"]) == ("3", "0", "6")
        _, metrics = await client.ask("GET", "/metrics")
        line = 'mataserver_gateway_requests_total{application="shop",consumer="till",model="cats"}'
        assert f"{line} 3.0" in metrics
        took = 'mataserver_gateway_request_seconds_count{application="shop",model="cats"}'
        assert f"{took} 3.0" in metrics  # whether a task answered or none was needed
        assert f'mataserver_gateway_server_up{{server="{upstream.url}"}} 1.0' in metrics
        await asked(client, key)
    async with serve() as client:
        assert [each["requests"] for each in await usage(client)] == ["4"]
        assert await usage(client, "?until=2020-01-01&since=2019-01-01") == []
        assert (await client.ask("GET", "/api/usage?since=yesterday"))[0] == 422


async def test_this_servers_own_models(serve):
    """A consumer asks a model of the server itself by an application, and not otherwise."""
    models = [{"model": "fake-detect", "task": "detect"}]
    async with serve(models=models, points=installed("oip")) as client:
        await client.made("/api/apps", {"name": "shop"})
        await client.made("/api/apps/shop/routes/fake-detect")
        key = (await client.made("/api/apps/shop/consumers/till"))["key"]
        picture = io.BytesIO()
        Image.new("RGB", (20, 10)).save(picture, "PNG")
        encoded = base64.b64encode(picture.getvalue()).decode()
        tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [encoded]}
        path = "/v2/models/fake-detect/infer"
        fields = {"apikey": key}
        async with asyncio.timeout(5.0):  # it begins once the server listens
            while True:
                status, answer = await client.ask(
                    "POST", f"/gateway/shop{path}", "", headers=fields, json={"inputs": [tensor]}
                )
                if status != 503:
                    break
        assert (status, answer["model_name"]) == (200, "fake-detect"), answer
        assert (await client.ask("POST", path, key, json={"inputs": [tensor]}))[0] in {401, 403}
        assert (await client.ask("GET", "/v1/models", key))[0] in {401, 403}


async def usage(client, query=""):
    """Return the rows of the CSV."""
    status, text = await client.ask("GET", f"/api/usage{query}")
    assert status == 200
    return list(csv.DictReader(io.StringIO(text)))


async def test_a_quota_outlives_a_restart(tables, serve, upstream):
    """What was asked today before the server began counts."""
    async with serve() as client:
        key = await shop(client, upstream)
        change = {"quota": 3}
        assert (await client.ask("PATCH", "/api/consumers/till", json=change))[0] == 200
        assert [(await asked(client, key))[0] for _ in range(2)] == [200, 200]
    async with serve() as client:
        async with asyncio.timeout(30):
            path = "/gateway/shop/v2/health/ready"
            while (await client.ask("GET", path, "", headers={"apikey": key}))[0] != 200:
                await asyncio.sleep(0.02)
        assert [(await asked(client, key))[0] for _ in range(2)] == [200, 429]


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
async def test_the_database_goes_away(tmp_path, serve, upstream):
    """The gateway goes on with what it knows, ``GET /ready`` says so, and what it counts waits."""
    with contextlib.ExitStack() as stack:
        own = stack.enter_context(running_postgres())
        database = Database(tmp_path, own)
        await database.migrate(SCHEMA)
        await add_model(database)
        await database.close()
        plugins = {
            "database": {"url": own, "timeout": 1.0},
            "fleet": {"gateway": {"settle": 0.2}},
        }
        async with serve(plugins=plugins) as client:
            key = await shop(client, upstream)
            assert (await client.ask("GET", "/ready"))[0] == 200
            stack.close()
            async with asyncio.timeout(10.0):
                while "applications are those of" not in str(await client.ask("GET", "/ready")):
                    await asyncio.sleep(0.05)
            assert (await client.ask("GET", "/ready"))[0] == 503
            for _ in range(5):
                assert (await asked(client, key))[0] == 200


@pytest.mark.parametrize(
    ("value", "cell"),
    [("=1+1", "'=1+1"), ("@x", "'@x"), ("-2", "'-2"), ("\tx", "'\tx"), ("a=b", "a=b"), (-2, -2)],
)
def test_no_name_is_a_formula(value, cell):
    """What is counted of a model with an odd name does nothing in a spreadsheet."""
    assert as_cell(value) == cell


async def test_usage_of_a_model_with_the_name_of_a_formula(serve):
    """Its cell is no formula."""
    async with serve() as client:
        gateway = client.server.service("fleet")._data_plane._gateway
        gateway.usage.note(gateway.limits.today(), Subject("till", "shop", "=1+1"), 200, 1, 1)
        assert [each["model"] for each in await usage(client)] == ["'=1+1"]
