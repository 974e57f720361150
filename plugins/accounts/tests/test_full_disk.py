"""Revocations that the database cannot take are in force all the same, and stored later."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging

import pytest
import sqlalchemy as sa

from mataserver import Conflict, NotFound
from mataserver_accounts import directory
from mataserver_accounts.announced_tables import AnnouncedTables
from mataserver_database import Busy, Database, Full, Refusal, Refusals


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


@pytest.fixture
def away(monkeypatch):
    """Return what has the database not answer for a while; it gives a list, an item an attempt."""

    @contextlib.contextmanager
    def cut_off():
        asked = []

        @contextlib.asynccontextmanager
        async def busy(_database):
            asked.append(True)
            raise Busy("The database does not answer now")
            yield

        with monkeypatch.context() as patch:
            patch.setattr(Database, "read", busy)
            patch.setattr(Database, "begin", busy)
            yield asked

    monkeypatch.setattr(directory, "STORE_SECONDS", 0.05)
    monkeypatch.setattr(directory, "RETRY_SECONDS", 0.05)
    return cut_off


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


async def test_revocations_while_the_database_is_away(client, away):
    """A key and a user are known from memory and refused, and go when it is back."""
    _, token = await client.user("ada")
    first, key = await key_of(client, token)
    bob, of_bob = await client.user("bob")
    _, of_eve = await client.user("eve")
    unknown = "00000000-0000-4000-8000-000000000000"
    with away():
        for path, secret, shown in (
            (f"/v1/keys/{first}", of_eve, (404, 200)),
            (f"/v1/keys/{first}", None, (503, 403)),
            (f"/v1/keys/{unknown}", None, (503, 403)),
        ):
            status, _ = await client.ask("DELETE", path, secret)
            assert (status, (await client.ask("GET", "/v1/models", key))[0]) == shown
        for name in ("nobody", "bob"):
            assert (await client.ask("DELETE", f"/v1/users/{name}"))[0] == 503
        assert (await client.ask("GET", "/v1/models", of_bob))[0] == 401
        assert (await client.ask("GET", "/v1/models", token))[0] == 200

    async def stored():
        shown = [f"/v1/keys/{first}", f"/v1/users/{bob['id']}"]
        return [(await client.ask("GET", each))[0] for each in shown] == [404, 404]

    await until(stored)
    for each, wanted in ((key, 403), (of_bob, 401), (token, 200)):
        assert (await client.ask("GET", "/v1/me", each))[0] == wanted


async def test_a_database_that_stays_away_is_logged_once(client, away, caplog):
    """The accounts are to be read again and again; that they cannot be is told once."""
    with away() as asked:
        client.server.service("accounts")._directory._change_event.set()
        await until(lambda: asyncio.sleep(0, len(asked) >= 5))
    told = [each.message for each in caplog.records if "cannot be read" in each.message]
    assert told == ["accounts cannot be read now: The database does not answer now"]


async def test_what_becomes_of_refusals(caplog):
    """One that cannot be stored holds up no other; only what is settled is no longer refused."""
    caplog.set_level(logging.INFO)
    refusals, asked = Refusals(logging.getLogger("refusals")), []

    def refuse(identity, error):
        async def storing():
            asked.append(identity)
            if error is not None:
                raise error

        refusals.add(identity, Refusal(identity, storing, "root (1)", "away"))

    refuse("full", Full("No room"))
    refuse("broken", RuntimeError("Something else"))
    refuse("gone", NotFound("User not found"))
    refuse("last", Conflict("ada is the last administrator"))
    refuse("taken", None)
    assert caplog.text.count("as root (1) asked") == 5
    caplog.clear()
    for _ in range(2):
        settled = await refusals.store()
        assert set(settled) == {"gone", "last", "taken"}
    assert asked == ["full", "broken", "gone", "last", "taken"] * 2
    said = [each.getMessage() for each in caplog.records]
    assert [len([each for each in said if word in each]) for word in ("full", "broken")] == [1, 1]
    assert "last is valid again, though root (1) asked to refuse it" in caplog.text
    assert "it is stored that taken is refused, as root (1) asked" in caplog.text
    refuse("taken", Full("No room"))  # asked for anew before what was stored has been read
    refusals.drop(settled)
    assert set(await refusals.store()) == set()
    assert asked[-3:] == ["full", "broken", "taken"]


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
