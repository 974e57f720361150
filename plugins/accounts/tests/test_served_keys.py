"""Keys of users through a real server: whose they are, their rate, where they end."""

from __future__ import annotations

import asyncio
import base64
import time

import jwt

from mataserver import EXAMPLE_IMAGE
from mataserver_accounts import directory, key_routes
from mataserver_accounts.directory import Directory
from mataserver_accounts.keys import Keys
from mataserver_accounts.snapshot import Snapshot
from mataserver_accounts.tokens import ALGORITHM, AUDIENCE

SECRET = "a secret of the test that is long enough"
SQL = "'; DROP TABLE users; -- \" OR 1=1"


async def test_keys(client):
    """A user's key is shown once, acts within its scopes, and is refused once it is revoked."""
    ada, token = await client.user("ada")
    body = {"name": SQL, "scopes": ["infer"]}
    status, made = await client.ask("POST", "/v1/keys", token, json=body)
    assert status == 201
    assert client.headers["Cache-Control"] == "no-store"
    secret = made.pop("key")
    assert (made["name"], made["owner"], made["scopes"]) == (SQL, ada["id"], ["infer"])
    assert await client.ask("GET", "/v1/keys", token) == (200, {"keys": [made], "total": 1})
    assert await client.ask("GET", f"/v1/keys/{made['id']}", token) == (200, made)
    me = (await client.ask("GET", "/v1/me", secret))[1]
    assert (me["id"], me["kind"], me["scopes"]) == (ada["id"], "key", ["infer"])
    assert (await client.ask("GET", "/v1/models", secret))[0] == 403
    for method, path in (("POST", "/v1/keys"), ("DELETE", f"/v1/keys/{made['id']}")):
        assert (await client.ask(method, path, secret, json={"name": "more"}))[0] == 403
    assert (await client.ask("DELETE", f"/v1/keys/{made['id']}", token))[0] == 204
    assert (await client.ask("GET", "/v1/me", secret))[0] == 403
    assert (await client.ask("GET", f"/v1/keys/{made['id']}", token))[0] == 404


async def test_the_last_keys_of_a_user_at_once(client, monkeypatch):
    """Of many requests for a user's last key one is answered with it."""
    monkeypatch.setattr(key_routes, "MOST_OF_ONE", 3)
    _, token = await client.user("ada")
    for name in ("first", "second"):
        assert (await client.ask("POST", "/v1/keys", token, json={"name": name}))[0] == 201
    last = (client.ask("POST", "/v1/keys", token, json={"name": "last"}) for _ in range(20))
    answers = await asyncio.gather(*last)
    assert sorted(status for status, _ in answers) == [201] + [409] * 19
    assert (await client.ask("GET", "/v1/keys", token))[1]["total"] == 3


async def test_keys_of_a_user_who_is_removed_at_once(client, monkeypatch):
    """A key whose owner is removed between the request's checks and its end is 404."""
    await client.user("ada")
    add_key = Keys.add_key

    async def late(keys, *args, **options):
        assert (await client.ask("DELETE", "/v1/users/ada"))[0] == 204
        return await add_key(keys, *args, **options)

    monkeypatch.setattr(Keys, "add_key", late)
    status, answer = await client.ask("POST", "/v1/keys", json={"name": "x", "owner": "ada"})
    assert (status, set(answer)) == (404, {"detail"})
    assert (await client.ask("GET", "/v1/keys"))[1]["total"] == 0


async def test_whose_keys(client):
    """Nobody sees another's keys, or makes one that may more; an administrator makes any."""
    _, admin = await client.user("ada", "admin")
    bob, token = await client.user("bob", "viewer")
    status, hers = await client.ask("POST", "/v1/keys", admin, json={"name": "hers"})
    assert status == 201
    assert "admin" in hers["scopes"]
    for method in ("GET", "DELETE"):
        assert (await client.ask(method, f"/v1/keys/{hers['id']}", token))[0] == 404
    assert (await client.ask("GET", "/v1/keys", token))[1] == {"keys": [], "total": 0}
    for body, wanted in (
        ({"name": "x", "scopes": ["infer"]}, 403),
        ({"name": "x", "scopes": ["models:read", "admin"]}, 403),
        ({"name": "x", "owner": "ada"}, 403),
        ({"name": "x", "standalone": True}, 403),
        ({"name": "x", "scopes": [SQL]}, 422),
        ({"name": "x", "scopes": []}, 422),
        ({"name": ""}, 422),
        ({"name": "a\0b"}, 422),
        ({"name": "door\u202egnp"}, 422),
        ({"name": "x", "rate": 0}, 422),
        ({"name": "x", "expires_at": time.time() - 1}, 422),
        ({"scopes": ["models:read"]}, 422),
    ):
        status, answer = await client.ask("POST", "/v1/keys", token, json=body)
        assert (status, set(answer)) == (wanted, {"detail"}), body
    for body, wanted in (
        ({"name": "x", "owner": "nobody"}, 404),
        ({"name": "x", "owner": SQL}, 404),
        ({"name": "x", "owner": "bob", "standalone": True}, 422),
        ({"name": "x", "standalone": True}, 422),
        ({"name": "x", "standalone": True, "scope": ["infer"]}, 422),
        ({"name": "x", "scopes": ["infer"], "expires": "30d"}, 422),
    ):
        assert (await client.ask("POST", "/v1/keys", admin, json=body))[0] == wanted, body
    body = {"name": "for bob", "owner": "bob"}
    made = (await client.ask("POST", "/v1/keys", admin, json=body))[1]
    assert made["owner"] == bob["id"]
    assert set(made["scopes"]) == {"models:read", "jobs:read", "fleet:read"}
    body = {"name": "camera", "standalone": True, "scopes": ["infer"]}
    camera = (await client.ask("POST", "/v1/keys", admin, json=body))[1]
    assert "owner" not in camera or camera["owner"] is None
    assert (await client.ask("GET", "/v1/me", camera["key"]))[1]["id"] == f"key:{camera['id']}"
    assert (await client.ask("GET", "/v1/keys", admin))[1]["total"] == 3


async def test_a_keys_rate(client):
    """A key that asks more often than it may is told when to ask again."""
    made = (await client.ask("POST", "/v1/keys", json={"name": "slow", "rate": 3}))[1]
    statuses = [(await client.ask("GET", "/v1/me", made["key"]))[0] for _ in range(4)]
    assert statuses == [200, 200, 200, 429]
    assert 1 <= int(client.headers["Retry-After"]) <= 60


async def test_a_camera_that_sends_one_head_again_and_again(client):
    """Such requests are known by their head: each is counted, and none gets past a revocation."""
    await client.ask("POST", "/v1/models/pull", json={"model": "fake-detect", "task": "detect"})
    made = (await client.ask("POST", "/v1/keys", json={"name": "camera", "rate": 8}))[1]
    other = (await client.ask("POST", "/v1/keys", json={"name": "another"}))[1]
    picture = {"data": base64.b64decode(EXAMPLE_IMAGE), "headers": {"Content-Type": "image/png"}}

    async def infer(key):
        return (await client.ask("POST", "/v1/infer?model=fake-detect", key, **picture))[0]

    heads = client.server.composed.heads
    assert [await infer(made["key"]) for _ in range(9)] == [200] * 8 + [429]
    known = heads.hits
    assert known > 0
    assert [await infer(other["key"]) for _ in range(4)] == [200] * 4
    assert heads.hits > known
    known = heads.hits
    assert (await client.ask("DELETE", f"/v1/keys/{other['id']}"))[0] in {200, 204}
    assert await infer(other["key"]) == 403
    assert heads.hits == known


async def test_a_keys_rate_in_a_browser(client):
    """What a browser asks that signed in with a key counts as what the key asks, and with it."""
    made = (await client.ask("POST", "/v1/keys", json={"name": "slow", "rate": 4}))[1]
    status, _ = await client.ask("POST", "/v1/session", "", json={"key": made["key"]})
    assert status == 200
    assert (await client.ask("GET", "/v1/me", made["key"]))[0] == 200
    statuses = [(await client.ask("GET", "/v1/me", ""))[0] for _ in range(3)]
    assert statuses == [200, 200, 429]
    assert 1 <= int(client.headers["Retry-After"]) <= 60
    assert (await client.ask("GET", "/v1/me", made["key"]))[0] == 429


async def test_forged_tokens(serve):
    """No signature, another's, another audience, over, of nobody: 401."""
    async with serve(accounts={"jwt_secret": SECRET, "token_seconds": 60}) as client:
        _, token = await client.user("ada", "admin")
        good = jwt.decode(token, SECRET, [ALGORITHM], audience=AUDIENCE)
        assert good["exp"] - time.time() <= 60
        assert (await client.ask("GET", "/v1/me", jwt.encode(good, SECRET)))[0] == 200
        head, payload, _ = token.split(".")
        for forged in (
            jwt.encode(good, None, "none"),
            jwt.encode(good, "another secret that is also long enough"),
            jwt.encode({**good, "aud": "others"}, SECRET),
            jwt.encode({**good, "exp": time.time() - 1}, SECRET),
            jwt.encode({**good, "sub": "nobody"}, SECRET),
            jwt.encode({**good, "gen": 2}, SECRET),
            f"{head}.{payload}.",
            f"{head}.{payload}.AAAA",
            "eyJ.eyJ.x",
        ):
            status, answer = await client.ask("GET", "/v1/me", forged)
            assert (status, answer) == (401, {"detail": "Invalid or expired token"})


async def test_two_servers(serve):
    """What one server changes the other obeys soon; tokens count on both."""
    async with serve() as here, serve() as there:
        _, token = await here.user("ada")
        key = (await here.ask("POST", "/v1/keys", token, json={"name": "k"}))[1]
        await until_status(there, token, 200)
        await until_status(there, key["key"], 200)
        await here.ask("DELETE", f"/v1/keys/{key['id']}", token)
        await until_status(there, key["key"], 403)
        await here.ask("PATCH", "/v1/users/ada", json={"disabled": True})
        await until_status(there, token, 401)


async def test_a_revocation_after_a_server_had_no_memory(serve, monkeypatch):
    """A server that had none while it read what another changed reads it again, and later ones."""
    monkeypatch.setattr("mataserver.tasks.SHORTAGE_PAUSE", 0.0)
    refresh, starved, failed = Directory.refresh, [], []

    async def without_memory(directory):
        if directory in starved and not failed:
            failed.append(directory)
            raise MemoryError
        await refresh(directory)

    monkeypatch.setattr(Directory, "refresh", without_memory)
    async with serve() as here, serve() as there:
        _, token = await here.user("ada")
        key = (await here.ask("POST", "/v1/keys", token, json={"name": "k"}))[1]
        await until_status(there, key["key"], 200)
        starved.append(there.server.service("accounts")._directory)
        await here.ask("DELETE", f"/v1/keys/{key['id']}", token)
        await until_status(there, key["key"], 403)
        assert failed


async def test_a_change_whose_reading_lacks_a_thread(client, monkeypatch):
    """It is done, and is answered so; it is read as soon as there is one."""
    _, token = await client.user("ada")
    key = (await client.ask("POST", "/v1/keys", token, json={"name": "k"}))[1]
    failures = [RuntimeError("can't start new thread")]

    def without_thread(*given):
        if failures:
            raise failures.pop()
        return Snapshot(*given)

    monkeypatch.setattr(directory, "Snapshot", without_thread)
    assert (await client.ask("DELETE", f"/v1/keys/{key['id']}", token))[0] == 204
    assert not failures
    await until_status(client, key["key"], 403)


async def until_status(client, secret, wanted):
    """Ask until the answer has a status."""
    async with asyncio.timeout(20):
        while (await client.ask("GET", "/v1/me", secret))[0] != wanted:
            await asyncio.sleep(0.02)
