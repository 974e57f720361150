"""Consumers' keys are refused although the database cannot take it, and that is stored later."""

from __future__ import annotations

import asyncio
import contextlib
import logging

import pytest
from onnx_files import adding
from stand_in_fleet import until
from test_models import push

from mataserver import NotFound
from mataserver_database import Busy, Database, Full, Refusal
from mataserver_fleet.gateway import refused_keys
from mataserver_fleet.gateway.snapshot import Consumer, Snapshot
from mataserver_fleet.store import Store

ASKED = "/gateway/shop/v2"
"""The application's description of itself, which is for its consumers alone."""


class Disk:
    """The disk of the database: while it is full, no change is stored."""

    full, refused = False, 0


@pytest.fixture
def disk(monkeypatch):
    """A disk that a test fills: a change then fails where it would be announced."""
    made, bump = Disk(), Store.bump_version

    async def bumped(store, connection):
        if made.full:
            made.refused += 1
            raise Full("The disk of the database is full")
        await bump(store, connection)

    monkeypatch.setattr(Store, "bump_version", bumped)
    monkeypatch.setattr(refused_keys, "STORE_SECONDS", 0.05)
    return made


@contextlib.contextmanager
def away():
    """Have the database not answer for a while."""

    @contextlib.asynccontextmanager
    async def busy(_database):
        raise Busy("The database does not answer now")
        yield

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Database, "read", busy)
        patch.setattr(Database, "begin", busy)
        yield


@pytest.fixture
async def keys(client):
    """The keys of the consumers ``till`` and ``scale`` of an application."""
    await push(client, "m", {"model.onnx": adding(1)})
    await client.made("/api/apps", {"name": "shop"})
    await client.made("/api/apps/shop/routes/m")
    made = {}
    for name in ("till", "scale"):
        answer = await client.made(f"/api/apps/shop/consumers/{name}")
        made[name] = answer["key"]
        assert await status(client, made[name]) == 200
    return made


async def status(client, key):
    """Return how the application answers a key."""
    return (await client.ask("GET", ASKED, "", headers={"apikey": key}))[0]


@pytest.mark.parametrize("path", ["/api/consumers/till/key", "/api/consumers/till"])
async def test_a_revocation_without_room(client, disk, keys, path, caplog):
    """The key is refused from the answer on, which says so; others are not; then it is stored."""
    caplog.set_level(logging.INFO)
    disk.full = True
    code, answer = await client.ask("DELETE", path)
    assert code == 507
    assert "This server refuses the key of till all the same" in answer["detail"]
    assert [await status(client, each) for each in keys.values()] == [401, 200]
    assert (await client.ask("GET", "/api/consumers/till"))[1]["active"], "it is not stored yet"
    disk.full = False

    async def stored():
        code, shown = await client.ask("GET", "/api/consumers/till")
        return code == 404 if path.endswith("till") else not shown["active"]

    await until(stored)

    async def settled():
        return "it is stored that the key of till is refused" in caplog.text

    await until(settled)
    assert [await status(client, each) for each in keys.values()] == [401, 200]


@pytest.mark.parametrize("first", ["till", "till/key"])
async def test_a_removal_and_a_revocation_without_room(client, disk, keys, first):
    """Both are stored later, in whichever order they were asked for: the consumer is gone."""
    disk.full = True
    for path in (first, *({"till", "till/key"} - {first})):
        assert (await client.ask("DELETE", f"/api/consumers/{path}"))[0] == 507
    refused = client.server.service("fleet")._data_plane.refused_keys
    disk.full = False

    async def settled():
        return not refused._removals and not refused._revocations

    await until(settled)
    assert (await client.ask("GET", "/api/consumers/till"))[0] == 404
    assert [await status(client, each) for each in keys.values()] == [401, 200]


async def test_a_revocation_that_another_server_stored(monkeypatch):
    """The key stays refused until this one has read that, not what it knew before."""
    digest, followed, asked = b"till's", [], asyncio.Event()
    consumer = Consumer(7, "till", digest)
    refused = refused_keys.RefusedKeys(lambda snapshot: followed.append(set(snapshot.consumers)))
    refused.follow(Snapshot((), [consumer]))
    assert followed == [{digest}]

    async def storing():
        raise NotFound("The key was replaced")

    async def refresh():
        refused.follow(Snapshot())
        asked.set()

    refused.refuse(digest, Refusal("the key", storing, "root (1)", "full"), removes=False)
    task = asyncio.create_task(refused.store(refresh, lambda: True))

    async def over():
        return not refused._revocations

    await until(over)
    task.cancel()
    assert asked.is_set()
    assert followed[1:] == [set(), set(), set()]


async def test_a_revocation_while_the_database_is_away(client, disk, keys):
    """Who may change every consumer revokes keys that are known; others cannot be told apart."""
    token = await client.person("ada")
    assert (await client.ask("POST", "/api/users/ada/apps/shop/auth"))[0] == 200
    with away():
        for path, secret in (("till/key", token), ("nobody/key", None)):
            assert (await client.ask("DELETE", f"/api/consumers/{path}", secret))[0] == 503
        assert await status(client, keys["till"]) == 200
        code, answer = await client.ask("DELETE", "/api/consumers/till/key")
        assert (code, "refuses the key of till" in answer["detail"]) == (503, True)
        assert [await status(client, each) for each in keys.values()] == [401, 200]

    async def stored():
        return not (await client.ask("GET", "/api/consumers/till"))[1]["active"]

    await until(stored)
    assert [await status(client, each) for each in keys.values()] == [401, 200]


async def test_a_key_that_is_replaced_before_its_revocation_is_stored(
    client, disk, keys, monkeypatch
):
    """The new one counts and stays: what was asked for is of the key of before."""
    monkeypatch.setattr(refused_keys, "STORE_SECONDS", 3600.0)
    disk.full = True
    assert (await client.ask("DELETE", "/api/consumers/till/key"))[0] == 507

    async def tried_again():
        return disk.refused == 2

    await until(tried_again)
    disk.full = False
    fresh = (await client.made("/api/consumers/till/key", status=200))["key"]
    assert [await status(client, each) for each in (keys["till"], fresh)] == [401, 200]
    refused = client.server.service("fleet")._data_plane.refused_keys._revocations
    assert len(await refused.store()) == 1
    assert [await status(client, each) for each in (keys["till"], fresh)] == [401, 200]


async def test_what_may_not_be_revoked_is_not_refused(client, disk, keys):
    """Neither by who may not, nor for another revision than the one that is there."""
    token = await client.person("ada")
    disk.full = True
    stale = {"If-Match": '"7"'}
    assert (await client.ask("DELETE", "/api/consumers/till/key", token))[0] == 403
    assert (await client.ask("DELETE", "/api/consumers/till/key", headers=stale))[0] == 412
    assert await status(client, keys["till"]) == 200
