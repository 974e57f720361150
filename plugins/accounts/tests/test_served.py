"""Accounts through a real server, on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import itertools
import logging
import socket
import time

import aiohttp
import grpc
import jwt
import pytest

from mataserver import EXAMPLE_IMAGE, MataError
from mataserver.testing import FAKE, check_plugin, installed, serving
from mataserver_accounts.api import check_enabled
from mataserver_accounts.tokens import ALGORITHM, AUDIENCE

SECRET = "a secret of the test that is long enough"
SQL = "'; DROP TABLE users; -- \" OR 1=1"


def test_the_plugin_is_sound():
    """Its hooks are well formed and import no framework."""
    assert check_plugin("accounts") == []
    assert check_plugin("database") == []


async def test_a_token(client):
    """A name and a password become a token, as JSON and as OAuth2's form; it is accepted."""
    user, _ = await client.user("ada")
    for given in (
        {"json": {"username": "ada", "password": "correct horse"}},
        {"data": {"grant_type": "password", "username": "ada", "password": "correct horse"}},
    ):
        status, answer = await client.ask("POST", "/auth/token", "", **given)
        assert status == 200
        assert set(answer) == {"access_token", "token_type", "expires_in"}
        assert (answer["token_type"], answer["expires_in"]) == ("bearer", 900)
        assert client.headers["Cache-Control"] == "no-store"
        status, me = await client.ask("GET", "/v1/me", answer["access_token"])
        assert status == 200
        assert (me["id"], me["name"], me["kind"], me["user"]) == (user["id"], "ada", "user", user)
        assert (await client.ask("GET", "/v1/models", answer["access_token"]))[0] == 200
        assert (await client.ask("POST", "/v1/users", answer["access_token"], json={}))[0] == 403


async def test_wrong_log_ins(client):
    """Whatever is wrong about a name and a password, the answer is one; what is missing is told."""
    user, _ = await client.user("ada")
    await client.user("bob")
    await client.ask("PATCH", "/v1/users/bob", json={"disabled": True})
    for name, password in (
        ("ada", "wrong"),
        ("ada", ""),
        ("nobody", "x"),
        ("bob", "correct horse"),
        (user["id"], "correct horse"),
        ("a\0b", "x"),
        (SQL, SQL),
    ):
        body = {"username": name, "password": password}
        status, answer = await client.ask("POST", "/auth/token", "", json=body)
        assert (status, answer) == (401, {"detail": "Invalid credentials"})
    for given, wanted in (
        ({"json": {"username": "ada"}}, 422),
        ({"json": {"password": "x"}}, 422),
        ({"json": {"username": 1, "password": "x"}}, 422),
        ({"json": []}, 422),
        ({"data": {"username": "ada"}}, 422),
        ({"data": [("username", "ada"), ("username", "bob"), ("password", "x")]}, 422),
        ({"data": b"username=%ff&password=x", "headers": FORM}, 400),
        ({"data": b"&".join([b"a=b"] * 100), "headers": FORM}, 400),
        ({"data": b"{", "headers": {"Content-Type": "application/json"}}, 400),
        ({"data": b"x", "headers": {"Content-Type": "text/plain"}}, 415),
        ({"json": {"username": "a" * 2_000, "password": "x"}}, 422),
    ):
        status, answer = await client.ask("POST", "/auth/token", "", **given)
        assert (status, set(answer)) == (wanted, {"detail"}), given


FORM = {"Content-Type": "application/x-www-form-urlencoded"}


async def test_failed_log_ins_must_wait(client):
    """After some failures 429 says how long; another name is not held up, nor the server's key."""
    await client.user("ada")
    await client.user("bob")
    wrong = {"username": "ada", "password": "wrong"}
    statuses = [(await client.ask("POST", "/auth/token", "", json=wrong))[0] for _ in range(6)]
    assert statuses == [401, 401, 401, 401, 401, 429]
    assert int(client.headers["Retry-After"]) >= 1
    await client.token("bob")


async def test_many_log_ins_at_once(client):
    """Of many at once from one address some are told to come again; none fails in another way."""
    bodies = [{"username": f"user{n}", "password": "x"} for n in range(20)]
    answers = await asyncio.gather(
        *(client.ask("POST", "/auth/token", "", json=body) for body in bodies)
    )
    statuses = {status for status, _ in answers}
    assert statuses == {401, 429}
    assert (await client.ask("POST", "/auth/token", "", json=bodies[0]))[0] == 401


async def test_giving_a_token_up(client):
    """A token that is given up is refused at once; other tokens of the user are not."""
    _, token = await client.user("ada")
    other = await client.token("ada")
    assert (await client.ask("DELETE", "/auth/token", token))[0] == 204
    status, answer = await client.ask("GET", "/v1/me", token)
    assert (status, answer) == (401, {"detail": "Invalid or expired token"})
    assert (await client.ask("GET", "/v1/me", other))[0] == 200
    status, answer = await client.ask("DELETE", "/auth/token")
    assert status == 422
    assert "token" in answer["detail"]


async def test_users(client):
    """An administrator makes, lists, changes and removes users; each change is in force at once."""
    ada, admin = await client.user("ada", "admin")
    bob, token = await client.user("bob", "viewer")
    assert set(bob) == {"id", "name", "role", "tags", "disabled", "created_at"}
    status, listed = await client.ask("GET", "/v1/users", admin)
    assert (status, listed) == (200, {"users": [ada, bob], "total": 2})
    status, listed = await client.ask("GET", "/v1/users?limit=1&offset=1", admin)
    assert (status, listed) == (200, {"users": [bob], "total": 2})
    for identity in ("bob", bob["id"]):
        assert await client.ask("GET", f"/v1/users/{identity}", admin) == (200, bob)
    change = {"role": "developer", "tags": ["night shift"]}
    status, changed = await client.ask("PATCH", "/v1/users/bob", admin, json=change)
    assert (status, changed) == (200, {**bob, **change})
    assert "infer" in (await client.ask("GET", "/v1/me", token))[1]["scopes"]
    for change in ({"password": "new"}, {"disabled": True}):
        assert (await client.ask("GET", "/v1/me", token))[0] == 200
        assert (await client.ask("PATCH", "/v1/users/bob", admin, json=change))[0] == 200
        assert (await client.ask("GET", "/v1/me", token))[0] == 401
        if "password" in change:
            token = await client.token("bob", "new")
    assert (await client.ask("DELETE", "/v1/users/bob", admin))[0] == 204
    assert (await client.ask("GET", "/v1/users/bob", admin))[0] == 404
    again, _ = await client.user("bob")
    assert again["id"] != bob["id"]
    assert (await client.ask("GET", "/v1/me", token))[0] == 401


async def test_what_users_may(client):
    """Who is no administrator sees their own record, and changes nobody's."""
    await client.user("ada", "admin")
    bob, token = await client.user("bob", "viewer")
    assert await client.ask("GET", "/v1/users", token) == (200, {"users": [bob], "total": 1})
    assert await client.ask("GET", "/v1/users/bob", token) == (200, bob)
    assert (await client.ask("GET", "/v1/users/ada", token))[0] == 404
    new = {"name": "eve", "password": "x", "role": "admin"}
    assert (await client.ask("POST", "/v1/users", token, json=new))[0] == 403
    for method in ("PATCH", "DELETE"):
        assert (await client.ask(method, "/v1/users/bob", token, json={}))[0] == 403
    for method, path in itertools.product(("GET",), ("/v1/users", "/v1/users/bob", "/v1/me")):
        assert (await client.ask(method, path, ""))[0] == 401


async def test_the_last_administrator(client):
    """Nobody removes, disables or demotes the only one who can administer."""
    _, admin = await client.user("ada", "admin")
    for method, change in (
        ("PATCH", {"role": "viewer"}),
        ("PATCH", {"disabled": True}),
        ("DELETE", None),
    ):
        status, answer = await client.ask(method, "/v1/users/ada", admin, json=change)
        assert (status, answer["detail"]) == (409, "ada is the last administrator")


async def test_wrong_users(client):
    """Every field is checked, and a text of SQL is a text like any other."""
    good = {"name": "ada", "password": "x", "role": "viewer"}
    assert (await client.ask("POST", "/v1/users", json=good))[0] == 201
    for change, wanted in (
        ({}, 409),
        ({"name": SQL}, 422),
        ({"name": "Ada"}, 422),
        ({"name": ""}, 422),
        ({"name": "a" * 65}, 422),
        ({"name": "5f0c1f0e-7c39-4b0e-9d7e-0a6a1f3c2b11"}, 422),
        ({"name": "eve", "password": ""}, 422),
        ({"name": "eve", "password": "x" * 1025}, 422),
        ({"name": "eve", "role": SQL}, 422),
        ({"name": "eve", "role": None}, 422),
        ({"name": "eve", "tags": "x"}, 422),
        ({"name": "eve", "tags": ["x" * 65]}, 422),
    ):
        status, answer = await client.ask("POST", "/v1/users", json={**good, **change})
        assert (status, set(answer)) == (wanted, {"detail"}), change
    tagged = {"name": "tag", "password": SQL, "role": "viewer", "tags": [SQL, "\0"]}
    status, made = await client.ask("POST", "/v1/users", json=tagged)
    assert (status, made["tags"]) == (201, [SQL, "\0"])
    await client.token("tag", SQL)
    for path in ("/v1/users/%00", "/v1/users/%27%20OR%201=1", "/v1/users/nobody", "/v1/keys/%00"):
        assert (await client.ask("GET", path))[0] == 404, path
        assert (await client.ask("DELETE", path))[0] == 404, path
    for query in (
        "limit=0",
        "limit=1001",
        "limit=x",
        "offset=-1",
        "limit=²",
        "offset=99999999999",
        "role=admin",
    ):
        assert (await client.ask("GET", f"/v1/users?{query}"))[0] == 422, query
    assert (await client.ask("GET", "/v1/users"))[1]["total"] == 2


async def test_a_name_of_ten_megabytes(client):
    """It is over the limit of every body here, and over that of a name when it is shorter."""
    _, token = await client.user("ada", "admin")
    body = b'{"name": "%b", "username": "%b"}' % (b"a" * 10_000_000, b"a" * 10_000_000)
    json = {"Content-Type": "application/json"}
    for method, path in (
        ("POST", "/auth/token"),
        ("POST", "/v1/users"),
        ("PATCH", "/v1/users/ada"),
        ("POST", "/v1/keys"),
    ):
        given = {"data": io.BytesIO(body), "headers": json}
        status, answer = await client.ask(method, path, token, **given)
        assert (status, set(answer)) == (413, {"detail"}), path


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
    """What one server changes the other obeys within a second; tokens count on both."""
    async with serve() as here, serve() as there:
        _, token = await here.user("ada")
        key = (await here.ask("POST", "/v1/keys", token, json={"name": "k"}))[1]
        await until_status(there, token, 200)
        await until_status(there, key["key"], 200)
        await here.ask("DELETE", f"/v1/keys/{key['id']}", token)
        assert await until_status(there, key["key"], 403) <= 1.0
        await here.ask("PATCH", "/v1/users/ada", json={"disabled": True})
        assert await until_status(there, token, 401) <= 1.0


async def until_status(client, secret, wanted):
    """Ask until the answer has a status; return the seconds that it took."""
    begun = time.monotonic()
    while (await client.ask("GET", "/v1/me", secret))[0] != wanted:
        assert time.monotonic() - begun < 5
        await asyncio.sleep(0.02)
    return time.monotonic() - begun


async def test_a_browser(client):
    """A browser signs in with a token, and is signed out when the user is disabled."""
    _, token = await client.user("ada")
    status, login = await client.ask("POST", "/v1/session", "", json={"key": token})
    assert (status, login["name"]) == (200, "ada")
    status, me = await client.ask("GET", "/v1/me", "")
    assert (status, me["name"]) == (200, "ada")
    await client.ask("PATCH", "/v1/users/ada", json={"disabled": True})
    assert (await client.ask("GET", "/v1/me", ""))[0] == 401


async def test_what_a_browser_rests_on(client):
    """A browser is signed out when its token is given up, and when its key ends or is revoked."""
    _, token = await client.user("ada")
    again = await client.token("ada")
    ends = time.time() + 1.5

    async def key(**more):
        return (await client.ask("POST", "/v1/keys", again, json={"name": "k", **more}))[1]

    passing, revoked = await key(expires_at=ends), await key()
    revoke = {"path": f"/v1/keys/{revoked['id']}", "secret": again}
    for secret, end in (
        (token, {"path": "/auth/token", "secret": token}),
        (revoked["key"], revoke),
        (passing["key"], None),
    ):
        status, _ = await client.ask("POST", "/v1/session", "", json={"key": secret})
        assert status == 200
        assert (await client.ask("GET", "/v1/me", ""))[0] == 200
        if end is not None:
            assert (await client.ask("DELETE", **end))[0] == 204
        else:
            await asyncio.sleep(max(0.0, ends - time.time()) + 0.05)
        assert (await client.ask("GET", "/v1/me", ""))[0] == 401
    assert (await client.ask("GET", "/v1/me", again))[0] == 200


async def test_a_password_of_ones_own(client):
    """Who knows the current password gets another; tokens of before end, a fresh one counts."""
    user, token = await client.user("ada")
    status, login = await client.ask("POST", "/v1/session", "", json={"key": token})
    assert (status, login["name"]) == (200, "ada")
    change = {"current": "correct horse", "new": "battery staple"}
    path = "/v1/me/password"
    assert (await client.ask("PUT", path, token, json={**change, "current": "x"}))[0] == 403
    status, answer = await client.ask("PUT", path, token, json=change)
    assert (status, answer["token_type"]) == (200, "bearer")
    assert client.headers["Cache-Control"] == "no-store"
    assert (await client.ask("GET", "/v1/me", token))[0] == 401
    assert (await client.ask("GET", "/v1/me", ""))[0] == 401  # the browser's session
    _, me = await client.ask("GET", "/v1/me", answer["access_token"])
    assert me["user"]["id"] == user["id"]
    old = {"username": "ada", "password": "correct horse"}
    assert (await client.ask("POST", "/auth/token", "", json=old))[0] == 401
    await client.token("ada", "battery staple")


async def test_passwords_that_are_not_changed(client):
    """A key has none; what is wrong is refused; who guesses must wait as for a log-in."""
    _, token = await client.user("ada")
    key = (await client.ask("POST", "/v1/keys", token, json={"name": "k"}))[1]["key"]
    change, path = {"current": "correct horse", "new": "battery staple"}, "/v1/me/password"
    assert (await client.ask("PUT", path, key, json=change))[0] == 403
    assert (await client.ask("PUT", path, json=change))[0] == 403  # the server's own key
    assert (await client.ask("PUT", path, "", json=change))[0] == 401
    for wrong in ({}, {**change, "new": ""}, {**change, "new": "x" * 1025}, {**change, "x": 1}):
        assert (await client.ask("PUT", path, token, json=wrong))[0] == 422
    for _ in range(5):
        guess = {**change, "current": "guess"}
        assert (await client.ask("PUT", path, token, json=guess))[0] == 403
    assert (await client.ask("PUT", path, token, json=change))[0] == 429
    assert int(client.headers["Retry-After"]) >= 1


async def test_a_web_socket(client):
    """A WebSocket takes a token in its query, and none that does not count."""
    _, token = await client.user("ada")
    await client.ask("POST", "/v1/models/pull", json={"model": "fake-detect", "task": "detect"})
    body = {"model": "fake-detect"}
    status, session = await client.ask("POST", "/v1/sessions", token, json=body)
    assert status == 201, session
    async with aiohttp.ClientSession() as http:
        async with http.ws_connect(f"{session['ws_url']}?token=eyJ.eyJ.x") as stream:
            await stream.receive()
            assert stream.close_code == 4001
        async with http.ws_connect(f"{session['ws_url']}?token={token}") as stream:
            await stream.send_bytes(b"no picture")
            message = await stream.receive()
            assert message.type is aiohttp.WSMsgType.TEXT


@pytest.mark.parametrize("way", ["key", "token", "password", "disabled", "removed"])
async def test_a_stream_ends_with_what_opened_it(client, way):
    """A socket that was opened by what counts no more is closed with 4001, at once."""
    user, token = await client.user("ada")
    await client.ask("POST", "/v1/models/pull", json={"model": "fake-detect", "task": "detect"})
    _, key = await client.ask("POST", "/v1/keys", token, json={"name": "camera"})
    shown = key["key"] if way == "key" else token
    body = {"model": "fake-detect"}
    _, session = await client.ask("POST", "/v1/sessions", shown, json=body)
    acts = {
        "key": ("DELETE", f"/v1/keys/{key['id']}", None),
        "token": ("DELETE", "/auth/token", token),
        "password": ("PATCH", f"/v1/users/{user['id']}", None),
        "disabled": ("PATCH", f"/v1/users/{user['id']}", None),
        "removed": ("DELETE", f"/v1/users/{user['id']}", None),
    }
    given = {"password": {"password": "another horse here"}, "disabled": {"disabled": True}}
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(f"{session['ws_url']}?token={shown}") as stream,
    ):
        await stream.send_bytes(b"no picture")
        assert (await stream.receive(timeout=20)).type is aiohttp.WSMsgType.TEXT
        method, path, secret = acts[way]
        status, said = await client.ask(method, path, secret, json=given.get(way))
        assert status < 300, said
        await stream.receive(timeout=20)
        assert stream.close_code == 4001


async def test_grpc(serve):
    """A call takes a token in its metadata, and none that does not count."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with serve(points=installed("oip"), others={"oip": {"grpc_port": port}}) as client:
        _, token = await client.user("ada")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary("/inference.GRPCInferenceService/ServerMetadata")
            assert await call(b"", metadata=(("authorization", f"Bearer {token}"),))
            await client.ask("PATCH", "/v1/users/ada", json={"disabled": True})
            with pytest.raises(grpc.aio.AioRpcError) as told:
                await call(b"", metadata=(("authorization", f"Bearer {token}"),))
            assert told.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_the_first_administrator(serve):
    """They are made once, from a digest, and no other while somebody can administer."""
    digest = hashlib.sha256(b"admin").hexdigest()
    first = {"username": "admin", "password_hash": digest}
    async with serve(accounts=first) as client:
        token = await client.token("admin", "admin")
        assert "admin" in (await client.ask("GET", "/v1/me", token))[1]["scopes"]
        await client.token("admin", "admin")
    async with serve(accounts={**first, "username": "other"}) as client:
        assert (await client.ask("GET", "/v1/users"))[1]["total"] == 1


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"username": "admin"}, "go together"),
        ({"password_hash": "0" * 64}, "go together"),
        ({"username": "admin", "password_hash": "secret"}, "neither a SHA-256"),
        ({"jwt_secret": "short"}, "jwt_secret"),
        ({"username": "Not a name"}, "username"),
    ],
)
async def test_wrong_settings(serve, wrong, told):
    """A server whose accounts are set up wrongly does not start, and says why."""
    with pytest.raises(MataError, match=told):
        async with serve(accounts=wrong):
            pass


def test_auth_enabled():
    """AUTH_ENABLED cannot open a server that is to ask, and is refused where it says otherwise."""
    check_enabled("", "key")
    check_enabled("True", "key")
    check_enabled("false", "none")
    for wish, mode in (("false", "key"), ("0", "key"), ("true", "none"), ("maybe", "key")):
        with pytest.raises(MataError, match="AUTH_ENABLED"):
            check_enabled(wish, mode)


async def test_without_the_plugin(serve, tmp_path):
    """``plugins.disabled`` takes the routes, the tokens and the keys away; nothing is lost."""
    async with serve() as client:
        _, token = await client.user("ada")
        key = (await client.ask("POST", "/v1/keys", token, json={"name": "k"}))[1]["key"]
    plugins = {"disabled": ["accounts"]}
    points = [FAKE, *installed("database", "accounts")]
    async with (
        serving(tmp_path, entry_points=points, plugins=plugins) as served,
        aiohttp.ClientSession() as http,
    ):
        for path in ("/v1/users", "/v1/keys", "/v1/me"):
            async with http.get(served.url + path, headers=served.headers) as response:
                assert response.status == 404
        for secret, wanted in ((token, 401), (key, 403)):
            headers = {"Authorization": f"Bearer {secret}"}
            async with http.get(f"{served.url}/v1/models", headers=headers) as response:
                assert response.status == wanted
    async with serve() as client:
        assert (await client.ask("GET", "/v1/me", token))[0] == 200


async def test_nothing_is_told(serve, caplog):
    """No other answer and no line of the log holds a password, a hash or a key."""
    caplog.set_level(logging.DEBUG)
    async with serve(accounts={"jwt_secret": SECRET}) as client:
        _, token = await client.user("ada", "admin", "Tr0ub4dor")
        key = (await client.ask("POST", "/v1/keys", token, json={"name": "k"}))[1]
        client.said.clear()
        for path in ("/v1/users", "/v1/users/ada", "/v1/keys", f"/v1/keys/{key['id']}", "/v1/me"):
            await client.ask("GET", path, token)
        await client.ask("PATCH", "/v1/users/ada", token, json={"password": "Tr0ub4dor&3"})
        await client.ask("POST", "/v1/users", json={"name": "ada", "password": "Tr0ub4dor"})
        wrong = {"username": "ada", "password": "Tr0ub4dor-wrong"}
        await client.ask("POST", "/auth/token", "", json=wrong)
        for path in ("/metrics", "/health", "/ready", "/openapi.json", "/v1/plugins"):
            await client.ask("GET", path, key["key"])
        said = "\n".join([*client.said, caplog.text])
    digest = hashlib.sha256(key["key"].encode()).hexdigest()
    for secret in ("Tr0ub4dor", "argon2id", key["key"], digest, token, SECRET):
        assert secret not in said
