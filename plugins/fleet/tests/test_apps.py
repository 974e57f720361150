"""Applications, their models and their consumers, through a real server on both databases."""

from __future__ import annotations

import hashlib
import itertools

import pytest
import sqlalchemy as sa

from mataserver_database import Database

OK = (200, {"status": "ok"})


async def test_apps(client):
    """An application is made, listed, read by id and by name, changed and removed."""
    new = {"name": "shop", "host": "Shop.example.com", "ip": "10.0.0.9", "gpus": 1, "retries": "3"}
    made = await client.made("/api/apps", new)
    assert (made["name"], made["host"], made["ip"]) == ("shop", "shop.example.com", "10.0.0.9")
    assert (made["gpus"], made["retries"], made["resend"]) == (1, 3, False)
    assert (made["routes"], made["consumers"]) == ([], [])
    assert made["port"] == client.server.url.rpartition(":")[2]
    for identity in ("shop", made["id"]):
        assert await client.ask("GET", f"/api/apps/{identity}") == (200, made)
    assert await client.ask("GET", "/api/apps") == (200, {"apps": [made], "total": 1})
    change = {"retries": 0, "resend": True, "host": None}
    status, changed = await client.ask("PATCH", "/api/apps/shop", json=change)
    assert (status, changed["status"], changed["retries"], changed["host"]) == (200, "ok", 0, None)
    assert changed["update_at"] >= made["update_at"]
    assert await client.ask("DELETE", "/api/apps/shop") == OK
    assert (await client.ask("GET", "/api/apps/shop"))[0] == 404
    assert (await client.made("/api/apps", {"name": "shop"}))["retries"] == 5


async def test_wrong_apps(client):
    """Every field is checked, a name is of one application, and one GPU is what it has."""
    await client.made("/api/apps", {"name": "shop"})
    for change, wanted in (
        ({}, 409),
        ({"name": "Shop"}, 422),
        ({"name": "a/b"}, 422),
        ({"name": "12"}, 422),
        ({"name": "b", "host": "http://b"}, 422),
        ({"name": "b", "host": "b:80"}, 422),
        ({"name": "b", "host": "b/../c"}, 422),
        ({"name": "b", "gpus": 2}, 400),
        ({"name": "b", "retries": 101}, 422),
        ({"name": "b", "retries": "101"}, 422),
        ({"name": "b", "retries": "x"}, 422),
        ({"name": "b", "colour": "red"}, 422),
    ):
        status, answer = await client.ask("POST", "/api/apps", json={"name": "shop", **change})
        assert (status, set(answer)) == (wanted, {"detail", "error"})


async def test_the_servers_own_name(client):
    """An application is not given the name by which who gives it asks: nobody would get back."""
    own = client.server.url.removeprefix("http://").partition(":")[0]
    status, answer = await client.ask("POST", "/api/apps", json={"name": "shop", "host": own})
    assert (status, "the server itself" in answer["detail"]) == (422, True)
    await client.made("/api/apps", {"name": "shop"})
    for asked in (own, "Mata.Example.", "[::1]:8110", "["):
        headers = {"Host": asked} if asked != own else {}
        change = {"host": asked.rstrip(".").partition(":8")[0]}
        status, _ = await client.ask("PATCH", "/api/apps/shop", json=change, headers=headers)
        assert status == 422, asked
    assert (await client.ask("GET", "/api/apps/shop"))[1]["host"] is None


async def test_a_developer_gives_no_host(client):
    """Another one, or none, is an administrator's to give; what stays may be said."""
    token = await client.person("dev")
    await client.made("/api/apps", {"name": "shop", "host": "shop.example.com"})
    await client.ask("POST", "/api/users/dev/apps/shop/auth")
    for change, wanted in (
        ({"host": "stock.example.com"}, 403),
        ({"host": None}, 403),
        ({"host": "Shop.example.com", "retries": "100"}, 200),
    ):
        assert (await client.ask("PATCH", "/api/apps/shop", token, json=change))[0] == wanted
    shown = (await client.ask("GET", "/api/apps/shop"))[1]
    assert (shown["host"], shown["retries"]) == ("shop.example.com", 100)


async def test_an_app_keeps_its_name(client):
    """The same name is fine, another is a conflict; a revision that is no more is 412."""
    await client.made("/api/apps", {"name": "shop"})
    first = {"If-Match": client.headers["ETag"]}
    assert (await client.ask("PATCH", "/api/apps/shop", json={"name": "shop"}))[0] == 200
    assert (await client.ask("PATCH", "/api/apps/shop", json={"name": "other"}))[0] == 409
    for method in ("PATCH", "DELETE"):
        body = {"json": {"retries": 1}} if method == "PATCH" else {}
        assert (await client.ask(method, "/api/apps/shop", headers=first, **body))[0] == 412


@pytest.fixture
async def shop(serve, tmp_path):
    """A client of a server with an application, and a model of its own."""
    models = [{"model": "fake-detect", "task": "detect"}]
    async with serve(models=models) as client:
        await client.made("/api/apps", {"name": "shop", "host": "shop.example.com"})
        yield client


async def test_routes(shop):
    """A model is brought into an application, twice is once; its URL is the gateway's."""
    route = "/api/apps/shop/routes/fake-detect"
    for _ in range(2):
        assert await shop.ask("POST", route) == (201, {"status": "ok"})
    status, listed = await shop.ask("GET", "/api/apps/shop/routes")
    assert (status, listed["total"]) == (200, 1)
    (found,) = listed["routes"]
    assert (found["model_name"], found["protocols"]) == ("fake-detect", ["http"])
    assert found["paths"] == ["/v2/models/fake-detect"]
    port = shop.server.url.rpartition(":")[2]
    assert found["url"] == f"http://shop.example.com:{port}/v2/models/fake-detect"
    assert (await shop.ask("GET", "/api/apps/shop"))[1]["routes"] == [found]
    change = {"paths": ["/detect/", "/v2/models/d"], "protocols": ["http", "grpc"]}
    assert await shop.ask("PATCH", route, json=change) == OK
    (found,) = (await shop.ask("GET", "/api/apps/shop/routes"))[1]["routes"]
    assert (found["paths"], found["protocols"]) == (change["paths"], change["protocols"])
    assert await shop.ask("DELETE", route) == OK
    assert (await shop.ask("DELETE", route))[0] == 404
    assert (await shop.ask("PATCH", route, json={}))[0] == 404


async def test_a_url_without_a_host(shop):
    """An application without a host is asked below ``/gateway/`` of the server."""
    await shop.made("/api/apps", {"name": "plain"})
    await shop.made("/api/apps/plain/routes/fake-detect")
    (found,) = (await shop.ask("GET", "/api/apps/plain/routes"))[1]["routes"]
    assert found["url"] == f"{shop.server.url}/gateway/plain/v2/models/fake-detect"


async def test_wrong_routes(shop):
    """A path leads nowhere but to its model; a model and its versions must exist."""
    route = "/api/apps/shop/routes/fake-detect"
    for body, wanted in (
        ({"paths": ["v2"]}, 422),
        ({"paths": ["/a/../b"]}, 422),
        ({"paths": ["/./b"]}, 422),
        ({"paths": ["//b"]}, 422),
        ({"paths": ["/b%2e"]}, 422),
        ({"paths": ["/b?c"]}, 422),
        ({"paths": []}, 422),
        ({"paths": ["/a", "/a/"]}, 409),
        ({"protocols": ["ftp"]}, 422),
        ({"weights": {"1": 1}}, 422),
        ({"weights": {"x": 1}}, 422),
        ({"mirror": "1"}, 422),
        ({"colour": 1}, 422),
    ):
        assert (await shop.ask("POST", route, json=body))[0] == wanted, body
    for path in ("/api/apps/shop/routes/absent", "/api/apps/absent/routes/fake-detect"):
        assert (await shop.ask("POST", path))[0] == 404
    assert (await shop.ask("GET", "/api/apps/shop/routes"))[1]["routes"] == []


async def test_one_host_of_two_apps(shop):
    """Two applications may have one host where their paths differ."""
    await shop.made("/api/apps/shop/routes/fake-detect")
    other = await shop.made("/api/apps", {"name": "other", "host": "shop.example.com"})
    clash = await shop.ask("POST", "/api/apps/other/routes/fake-detect")
    assert (clash[0], "fake-detect in " in clash[1]["detail"]) == (409, True)
    assert (await shop.ask("GET", f"/api/apps/{other['id']}/routes"))[1]["total"] == 0
    await shop.made("/api/apps/other/routes/fake-detect", {"paths": ["/v2/models/fake-detect/x"]})
    await shop.made("/api/apps", {"name": "third"})
    await shop.made("/api/apps/third/routes/fake-detect")
    moved = await shop.ask("PATCH", "/api/apps/third", json={"host": "shop.example.com"})
    assert moved[0] == 409


async def test_consumers(shop, tmp_path, url):
    """A consumer is made by its first link; its key is told once, and a digest of it is kept."""
    path = "/api/apps/shop/consumers/till"
    made = await shop.made(path, {"tags": "floor 1", "rate": 60})
    assert (made["name"], made["tags"], made["rate"], made["active"]) == (
        "till",
        "floor 1",
        60,
        True,
    )
    assert shop.headers["Cache-Control"] == "no-store"
    again = await shop.made(path)
    assert ("key" in again, again["id"]) == (False, made["id"])
    shown = {name: made[name] for name in made.keys() - {"key", "status"}}
    assert await shop.ask("GET", "/api/apps/shop/consumers") == (
        200, {"consumers": [shown], "total": 1},
    )  # fmt: skip
    assert (await shop.ask("GET", "/api/apps/shop"))[1]["consumers"] == [shown]
    assert await shop.ask("GET", "/api/consumers/till") == (200, shown)
    other = await shop.made("/api/apps/shop/consumers/till/key", status=200)
    assert other["key"] != made["key"]
    database = Database(tmp_path, url)
    async with database.read() as connection:
        kept = await connection.scalar(sa.text("SELECT digest FROM fleet_consumers"))
    await database.close()
    assert kept == hashlib.sha256(other["key"].encode()).hexdigest()
    assert sum(text.count("fleet_") for text in shop.said) == 2
    assert await shop.ask("DELETE", path) == OK
    assert (await shop.ask("DELETE", path))[0] == 404
    assert (await shop.ask("GET", "/api/consumers/till"))[0] == 200


async def test_a_known_consumer_is_linked_with_other_limits(shop):
    """A limit that would not hold is told, and nobody is let in without it."""
    await shop.made("/api/consumers", {"name": "till", "tags": "floor 1", "rate": 60})
    path = "/api/apps/shop/consumers/till"
    for body, word in (
        ({"rate": 5}, "rate"),
        ({"rate": 60, "quota": 9}, "quota"),
        ({"tags": "floor 2", "rate": 5}, "tags and rate"),
    ):
        status, told = await shop.ask("POST", path, json=body)
        assert (status, f"another {word}: " in told["detail"]) == (409, True), told
    assert (await shop.ask("GET", "/api/apps/shop/consumers"))[1]["total"] == 0
    await shop.made(path, {"tags": "floor 1", "rate": 60})
    assert (await shop.ask("GET", "/api/apps/shop/consumers"))[1]["total"] == 1


async def test_consumers_by_themselves(client):
    """Consumers are made, changed, given other keys, deprived of them, and removed."""
    made = await client.made("/api/consumers", {"name": "till", "quota": 1000})
    assert made["key"].startswith("fleet_")
    assert (await client.ask("POST", "/api/consumers", json={"name": "till"}))[0] == 409
    status, changed = await client.ask(
        "PATCH", "/api/consumers/till", json={"quota": None, "rate": 5}
    )
    assert (status, changed["quota"], changed["rate"]) == (200, None, 5)
    status, revoked = await client.ask("DELETE", "/api/consumers/till/key")
    assert (status, revoked["active"], "key" in revoked) == (200, False, False)
    assert (await client.made("/api/consumers/till/key", status=200))["active"]
    status, listed = await client.ask("GET", "/api/consumers")
    assert (status, listed["total"]) == (200, 1)
    assert await client.ask("DELETE", "/api/consumers/till") == OK
    assert (await client.ask("DELETE", "/api/consumers/till"))[0] == 404
    for body in ({"name": ""}, {"name": "1"}, {"name": "a b"}, {"name": "a", "rate": 0}, {}):
        assert (await client.ask("POST", "/api/consumers", json=body))[0] == 422, body


async def test_developers(shop):
    """A developer changes the applications that they are authorised for, and no others."""
    await shop.made("/api/apps", {"name": "other"})
    token, viewer = await shop.person("dev"), await shop.person("vera", "viewer")
    asked = (
        ("PATCH", "", {"retries": 1}, 200),
        ("POST", "/routes/fake-detect", {}, 201),
        ("PATCH", "/routes/fake-detect", {"protocols": ["http"]}, 200),
        ("POST", "/consumers/till", {}, 201),
        ("POST", "/consumers/till/key", None, 200),
        ("DELETE", "/consumers/till", None, 200),
        ("DELETE", "/routes/fake-detect", None, 200),
    )
    for name, (method, path, body, _) in itertools.product(("shop", "other"), asked[:4]):
        status, _ = await shop.ask(method, f"/api/apps/{name}{path}", token, json=body)
        assert status in {403, 404}, (method, path)
    for user in ("dev", "vera"):
        assert await shop.ask("POST", f"/api/users/{user}/apps/shop/auth") == OK
    assert await shop.ask("GET", "/api/users/dev/apps", token) == (200, {"apps": ["shop"]})
    for method, path, body, wanted in asked:
        status, answer = await shop.ask(method, f"/api/apps/shop{path}", token, json=body)
        assert status == wanted, answer
        assert (await shop.ask(method, f"/api/apps/shop{path}", viewer, json=body))[0] in {403, 404}
    assert (await shop.ask("PATCH", "/api/apps/other", token, json={"retries": 1}))[0] == 403
    assert (await shop.ask("DELETE", "/api/apps/shop", token))[0] == 403
    assert (await shop.ask("POST", "/api/apps", token, json={"name": "mine"}))[0] == 403
    assert await shop.ask("POST", "/api/users/dev/apps/shop/unauth") == OK
    assert (await shop.ask("PATCH", "/api/apps/shop", token, json={"retries": 1}))[0] == 403


async def test_no_key_to_anothers_application(shop):
    """A developer gives no other key to a consumer that asks others' applications too."""
    await shop.made("/api/apps", {"name": "other"})
    token = await shop.person("dev")
    await shop.ask("POST", "/api/users/dev/apps/shop/auth")
    await shop.made("/api/apps/other/consumers/till")
    await shop.made("/api/apps/shop/consumers/till", secret=token)
    for method, path in (
        ("POST", "/api/apps/shop/consumers/till/key"),
        ("POST", "/api/consumers/till/key"),
        ("DELETE", "/api/consumers/till/key"),
    ):
        assert (await shop.ask(method, path, token))[0] == 403
    await shop.ask("DELETE", "/api/apps/other/consumers/till")
    assert (await shop.ask("POST", "/api/consumers/till/key", token))[0] == 200


async def test_a_key_that_may_less(shop):
    """A developer's key changes nothing where it may not do all that they may."""
    token = await shop.person("dev")
    await shop.ask("POST", "/api/users/dev/apps/shop/auth")
    for scopes, wanted in ((["fleet:read"], 403), (None, 200)):
        body = {"name": "k", **({"scopes": scopes} if scopes else {})}
        _, key = await shop.ask("POST", "/v1/keys", token, json=body)
        change = await shop.ask("PATCH", "/api/apps/shop", key["key"], json={"retries": 2})
        assert change[0] == wanted
