"""Revocations that the database has no room for are in force all the same, and stored later."""

from __future__ import annotations

import asyncio
import hashlib

import pytest
import sqlalchemy as sa

from mataserver_accounts import directory
from mataserver_accounts.announced_tables import AnnouncedTables
from mataserver_database import Full


class Disk:
    """The disk of the database: while it is full, no change is stored."""

    full = False


@pytest.fixture
def disk(monkeypatch):
    """A disk that a test fills: a change then fails where it would be announced."""
    made, announce = Disk(), AnnouncedTables._announce

    async def announced(accounts, connection):
        if made.full:
            raise Full("The disk of the database is full")
        await announce(accounts, connection)

    monkeypatch.setattr(AnnouncedTables, "_announce", announced)
    monkeypatch.setattr(directory, "STORE_SECONDS", 0.05)
    return made


async def key_of(client, token):
    """Return the id of a new key, and its secret."""
    body = {"name": "cam", "scopes": ["models:read"]}
    status, made = await client.ask("POST", "/v1/keys", token, json=body)
    assert status == 201
    return made["id"], made["key"]


async def until(condition):
    """Wait until something is so."""
    async with asyncio.timeout(30):
        while not await condition():
            await asyncio.sleep(0.02)


async def test_revocations_without_room(client, disk):
    """A key, a token and a user are refused from the answer on, which says so, and go later."""
    ada, token = await client.user("ada")
    second = await client.token("ada")
    first, key = await key_of(client, token)
    bob, of_bob = await client.user("bob")
    _, key_of_bob = await key_of(client, of_bob)
    disk.full = True
    for path, secret, refused in (
        (f"/v1/keys/{first}", None, [(key, 403)]),
        ("/auth/token", token, [(token, 401)]),
        (f"/v1/users/{bob['name']}", None, [(of_bob, 401), (key_of_bob, 403)]),
    ):
        status, answer = await client.ask("DELETE", path, secret)
        assert status == 507
        assert "refuses" in answer["detail"]
        for each, wanted in refused:
            assert (await client.ask("GET", "/v1/me", each))[0] == wanted, path
    assert (await client.ask("GET", "/v1/me", second))[0] == 200
    assert (await client.ask("GET", f"/v1/keys/{first}"))[0] == 200, "it is not stored yet"
    disk.full = False

    async def stored():
        shown = [f"/v1/keys/{first}", f"/v1/users/{bob['id']}"]
        return [(await client.ask("GET", each))[0] for each in shown] == [404, 404]

    await until(stored)
    for each, wanted in ((key, 403), (token, 401), (of_bob, 401), (second, 200)):
        assert (await client.ask("GET", "/v1/me", each))[0] == wanted
    assert (await client.ask("GET", f"/v1/users/{ada['id']}"))[0] == 200


async def test_a_log_in_without_room(accounts, database, disk):
    """A password counts although its better hash cannot be stored; the next log-in stores it."""
    known = hashlib.sha256(b"first").hexdigest()
    await accounts.add_user("ada", known, "viewer", hashed=True)
    for full, start in ((True, known), (False, "$argon2id$")):
        disk.full = full
        assert (await accounts.check_password("ada", "first"))[0].name == "ada"
        async with database.read() as connection:
            kept = await connection.scalar(sa.text("SELECT password FROM users"))
        assert kept.startswith(start)


async def test_the_last_administrator_is_not_refused(client, disk):
    """Who must stay is not refused either: the table's rule comes before the room for it."""
    root, token = await client.user("root", role="admin")
    disk.full = True
    assert (await client.ask("DELETE", f"/v1/users/{root['id']}"))[0] == 409
    assert (await client.ask("GET", "/v1/me", token))[0] == 200
