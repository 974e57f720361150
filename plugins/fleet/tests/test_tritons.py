"""``/api/tritons`` through a real server, on SQLite and on PostgreSQL."""

from __future__ import annotations

from mataserver.testing import check_plugin

GPU = {"name": "gpu-1", "host": "127.0.0.1", "port": "8000", "gpus": 2}


def test_the_plugin_is_sound():
    """Its hooks are well formed and import no framework."""
    assert check_plugin("fleet") == []


async def test_tritons(client):
    """A Triton is registered, listed, read by id and by name, changed and forgotten."""
    made = await client.made("/api/tritons", GPU)
    assert {name: made[name] for name in GPU} == GPU
    assert (made["ip"], made["state"] in {"unknown", "offline"}) == ("127.0.0.1", True)
    assert made["create_at"].endswith("+00:00")
    for identity in ("gpu-1", made["id"]):
        status, one = await client.ask("GET", f"/api/tritons/{identity}")
        assert (status, one["id"], one["name"]) == (200, made["id"], "gpu-1")
    status, changed = await client.ask("PATCH", "/api/tritons/gpu-1", json={"gpus": 4})
    assert (status, changed["status"], changed["gpus"]) == (200, "ok", 4)
    status, listed = await client.ask("GET", "/api/tritons")
    assert (status, listed["total"], listed["tritons"][0]["gpus"]) == (200, 1, 4)
    assert await client.ask("DELETE", "/api/tritons/gpu-1") == (200, {"status": "ok"})
    status, answer = await client.ask("GET", "/api/tritons/gpu-1")
    assert (status, answer) == (404, dict.fromkeys(("detail", "error"), NONE))
    again = await client.made("/api/tritons", GPU)
    assert again["id"] > made["id"]


NONE = "Triton not found: gpu-1"


async def test_an_address_alone(client):
    """As MLServe's present clients ask it: an address and a port, which become the name."""
    made = await client.made("/api/tritons", {"ip": "127.0.0.1", "port": 9000})
    assert (made["name"], made["port"], made["gpus"]) == ("127.0.0.1:9000", "9000", None)
    six = await client.made("/api/tritons", {"host": "[::1]", "port": 9000, "name": "six"})
    assert six["host"] == "::1"


async def test_what_is_taken(client):
    """A name and an address are of one Triton; a Triton keeps its name."""
    await client.made("/api/tritons", GPU)
    await client.made("/api/tritons", {"name": "other", "host": "127.0.0.1", "port": 8100})
    for method, path, body in (
        ("POST", "/api/tritons", {**GPU, "port": 8200}),
        ("POST", "/api/tritons", {**GPU, "name": "third"}),
        ("PATCH", "/api/tritons/other", {"port": 8000}),
        ("PATCH", "/api/tritons/other", {"name": "another"}),
    ):
        status, answer = await client.ask(method, path, json=body)
        assert (status, set(answer)) == (409, {"detail", "error"}), (body, answer)
    status, same = await client.ask("PATCH", "/api/tritons/other", json={"name": "other"})
    assert (status, same["status"]) == (200, "ok")


async def test_null_takes_away(client):
    """What a Triton need not have can be taken away again; what is left out stays."""
    await client.made("/api/tritons", {**GPU, "gpus": 2, "metrics_port": 8002, "grpc_port": "8001"})
    path = f"/api/tritons/{GPU['name']}"
    _, one = await client.ask("PATCH", path, json={"metrics_port": None})
    assert (one["gpus"], one["grpc_port"], one["metrics_port"]) == (2, "8001", None)
    _, one = await client.ask("PATCH", path, json={"gpus": None, "grpc_port": None, "path": None})
    assert (one["gpus"], one["grpc_port"], one["port"]) == (None, None, str(GPU["port"]))


async def test_wrong_tritons(client):
    """Every field is checked, and what is no field is told."""
    for change in (
        {"port": None},
        {"port": 0},
        {"port": "70000"},
        {"port": "80a"},
        {"host": ""},
        {"host": "a/b"},
        {"host": "a:b"},
        {"host": "user@host"},
        {"host": "a\0b"},
        {"ip": "127.0.0.2"},
        {"name": ""},
        {"name": "a/b"},
        {"name": "12"},
        {"name": "x" * 129},
        {"gpus": -1},
        {"path": "/models"},
        {"colour": "red"},
    ):
        body = {name: value for name, value in {**GPU, **change}.items() if value is not None}
        status, answer = await client.ask("POST", "/api/tritons", json=body)
        assert (status, set(answer)) == (422, {"detail", "error"})


async def test_pages_of_tritons(client):
    """A list is given in parts."""
    for port in (8000, 8001, 8002):
        await client.made("/api/tritons", {"host": "127.0.0.1", "port": port})
    status, part = await client.ask("GET", "/api/tritons?limit=1&offset=1")
    assert (status, part["total"]) == (200, 3)
    assert [each["port"] for each in part["tritons"]] == ["8001"]
    for query in ("limit=0", "limit=1001", "limit=x", "offset=-1", "limit=1&limit=2"):
        assert (await client.ask("GET", f"/api/tritons?{query}"))[0] == 422
    status, told = await client.ask("DELETE", "/api/tritons/x?force=true&force=false")
    assert (status, told["detail"]) == (422, "force: given twice")


async def test_two_who_change_one(client):
    """``If-Match`` of a revision that is no more is 412, and nothing is changed."""
    await client.made("/api/tritons", GPU)
    await client.ask("GET", "/api/tritons/gpu-1")
    first = {"If-Match": client.headers["ETag"]}
    assert (await client.ask("PATCH", "/api/tritons/gpu-1", headers=first, json={"gpus": 3}))[
        0
    ] == 200
    for method, body in (("PATCH", {"gpus": 9}), ("DELETE", None)):
        status, _ = await client.ask(method, "/api/tritons/gpu-1", headers=first, json=body)
        assert status == 412
    assert (await client.ask("GET", "/api/tritons/gpu-1"))[1]["gpus"] == 3
    for tags, wanted in (('"x"', 412), ("x", 422), ('"x", W/"2"', 200)):
        given = {"headers": {"If-Match": tags}, "json": {"gpus": 9}}
        assert (await client.ask("PATCH", "/api/tritons/gpu-1", **given))[0] == wanted


async def test_who_may(client):
    """A viewer and a developer read; an administrator writes; nobody else is told anything."""
    viewer, developer = await client.person("vera", "viewer"), await client.person("dev")
    admin = await client.person("ada", "admin")
    for secret, status in ((viewer, 403), (developer, 403), (admin, 201)):
        assert (await client.ask("GET", "/api/tritons", secret))[0] == 200
        assert (await client.ask("POST", "/api/tritons", secret, json=GPU))[0] == status
    for method, path in (("GET", "/api/tritons"), ("DELETE", "/api/tritons/gpu-1")):
        status, answer = await client.ask(method, path, "")
        assert (status, set(answer)) == (401, {"detail", "error"})
