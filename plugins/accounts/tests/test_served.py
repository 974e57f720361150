"""Accounts through a real server, on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import hashlib
import io
import itertools
import logging

import aiohttp
import pytest

from mataserver import MataError
from mataserver.testing import FAKE, check_plugin, installed, serving

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
        assert (await client.ask("GET", "/v1/me?user=bob", answer["access_token"]))[0] == 422
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
    _, listed = await client.ask("GET", "/v1/users?limit=1", admin)
    cursor = listed["next_cursor"]
    assert listed == {"users": [ada], "total": 2, "next_cursor": cursor}
    listed = await client.ask("GET", f"/v1/users?limit=1&cursor={cursor}", admin)
    assert listed == (200, {"users": [bob], "total": 2})
    assert (await client.ask("GET", f"/v1/keys?cursor={cursor}", admin))[0] == 422
    assert (await client.ask("GET", f"/v1/users?offset=1&cursor={cursor}", admin))[0] == 422
    assert (await client.ask("GET", f"/v1/users?cursor={cursor}", token))[1]["users"] == [bob]
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
        ({"name": "eve", "tags": ["\0"]}, 422),
        ({"name": "eve", "tags": ["a\tb"]}, 422),
        ({"name": "eve", "tags": ["\x1b[31m"]}, 422),
        ({"name": "eve", "tags": ["\x9b31m"]}, 422),
        ({"name": "eve", "tags": ["\u202egnp"]}, 422),
    ):
        status, answer = await client.ask("POST", "/v1/users", json={**good, **change})
        assert (status, set(answer)) == (wanted, {"detail"}), change
    tagged = {"name": "tag", "password": SQL, "role": "viewer", "tags": [SQL, ""]}
    status, made = await client.ask("POST", "/v1/users", json=tagged)
    assert (status, made["tags"]) == (201, [SQL, ""])
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
        "limit=1&limit=2",
        "offset=0&offset=0",
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
        for secret in (token, key):
            headers = {"Authorization": f"Bearer {secret}"}
            async with http.get(f"{served.url}/v1/models", headers=headers) as response:
                assert response.status == 403
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
