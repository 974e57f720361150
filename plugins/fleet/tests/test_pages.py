"""Every list of the fleet in pages, by number and by cursor, on both databases."""

from __future__ import annotations

from onnx_files import adding
from test_models import form, push

NAMES = ["a-b", "ab", "a.c", "b"]
"""As code points sort them they are another row than as a language does."""


async def walk(client, path, list_name, between=None):
    """Return the things of a list, read in pages of one by its cursors."""
    found, query = [], "?limit=1"
    while True:
        status, page = await client.ask("GET", path + query)
        assert status == 200, page
        assert len(page[list_name]) <= 1
        found += page[list_name]
        if "next_cursor" not in page:
            return found
        if between is not None:
            await between(len(found))
        query = f"?limit=1&cursor={page['next_cursor']}"


async def everything(client):
    """Make four of each thing; return the lists: the path, the name, and what is to be in it."""
    for at, name in enumerate(reversed(NAMES)):
        await client.made("/api/tritons", {"name": name, "host": "127.0.0.1", "port": 8000 + at})
        await push(client, name, {"model.onnx": adding(1)})
        await client.made("/api/apps", {"name": name})
        await client.made("/api/consumers", {"name": name})
        await client.person(name)
    for name in reversed(NAMES):
        await client.made(f"/api/apps/b/routes/{name}")
        await client.made(f"/api/apps/b/consumers/{name}")
    names = sorted(NAMES)
    return [
        ("/api/tritons", "tritons", "name", NAMES[::-1]),
        ("/api/models", "models", "name", names),
        ("/api/apps", "apps", "name", names),
        ("/api/consumers", "consumers", "name", names),
        ("/api/users", "users", "name", names),
        ("/api/apps/b/routes", "routes", "model_name", names),
        ("/api/apps/b/consumers", "consumers", "name", names),
    ]


async def test_every_list_by_cursor(client):
    """Each thing stands on one page; a cursor of another list, or beside an offset, is refused."""
    cursors = {}
    for path, list_name, field, names in await everything(client):
        walked = [each[field] for each in await walk(client, path, list_name)]
        assert walked == names, path
        _, whole = await client.ask("GET", path)
        assert [each[field] for each in whole[list_name]] == names, path
        assert "next_cursor" not in whole
        cursors[path] = (await client.ask("GET", f"{path}?limit=1"))[1]["next_cursor"]
    assert len(set(cursors.values())) == len(cursors)
    for path in cursors:
        for other, cursor in cursors.items():
            status, _ = await client.ask("GET", f"{path}?cursor={cursor}")
            assert status == (200 if path == other else 422), (path, other)
        assert (await client.ask("GET", f"{path}?offset=1&cursor={cursors[path]}"))[0] == 422


async def test_a_walk_while_applications_come_and_go(client):
    """What stays is found once; by number one would be found twice and another missed."""
    for name in ("b", "d", "f", "h"):
        await client.made("/api/apps", {"name": name})

    async def between(number):
        await client.made("/api/apps", {"name": f"a{number}"})
        if number == 2:
            assert (await client.ask("DELETE", "/api/apps/b"))[0] == 200

    found = await walk(client, "/api/apps", "apps", between)
    assert [each["name"] for each in found] == ["b", "d", "f", "h"]


async def test_versions_by_cursor(client):
    """The newest is first; one that is added meanwhile is on none of the next pages."""
    await push(client, "shelf", {"model.onnx": adding(1)})

    async def add(number):
        data = form({"model.onnx": adding(number)}, version=number)
        assert (await client.ask("POST", "/api/models/shelf/versions", data=data))[0] == 201

    await add(2)
    await add(3)
    found = await walk(client, "/api/models/shelf/versions", "versions", lambda at: add(10 + at))
    assert [each["version"] for each in found] == ["3", "2", "1"]
    assert (await client.ask("GET", "/api/models/shelf/versions?cursor=x"))[0] == 422
