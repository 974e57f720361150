"""Who may not, on every route that changes something: nothing is changed, and nothing is told."""

from __future__ import annotations

import re

from onnx_files import adding
from stand_in_fleet import until
from stand_in_triton import stand_ins
from test_models import push

OPEN = {"/api/login", "/api/logout"}
THINGS = {"user": "ada", "consumer": "till", "model": "m", "app": "shop", "version": "1"}
BY_PLACE = {"tritons": "t", "models": "m", "apps": "shop", "users": "ada", "consumers": "till"}
READ = ("tritons", "models", "apps", "consumers", "users", "apps/shop/routes", "users/ada/apps")


def filled(path):
    """Return a path of the document with the names of what there is."""
    place = BY_PLACE.get(path.split("/")[2], "")
    return re.sub(r"\{(\w+)[^}]*\}", lambda each: THINGS.get(each[1], place), path)


async def state(client):
    """Return everything that the routes tell."""
    told = [await client.ask("GET", f"/api/{each}") for each in READ]
    return [
        {**answer, "tritons": [{**each, "answered_at": None} for each in answer["tritons"]]}
        if "tritons" in answer and "total" in answer
        else answer
        for _, answer in told
    ]


async def is_looked_at(client):
    """Whether the Triton has answered for the first time, which changes what is told of it."""
    return (await state(client))[0]["tritons"][0]["state"] == "ready"


async def test_who_may_not(serve):
    """A viewer, a developer of another application, a consumer, and who is nobody."""
    async with stand_ins(1) as (triton,), serve(fleet={"probe": 60.0}) as client:
        body = {"name": "t", "host": "127.0.0.1", "port": triton.port}
        await client.made("/api/tritons", body)
        await push(client, "m", {"model.onnx": adding(1)})
        await client.made("/api/apps", {"name": "shop"})
        await client.made("/api/apps", {"name": "other"})
        await client.made("/api/apps/shop/routes/m")
        key = (await client.made("/api/apps/shop/consumers/till"))["key"]
        await client.person("ada")
        viewer, developer = await client.person("vera", "viewer"), await client.person("dev")
        assert (await client.ask("POST", "/api/users/dev/apps/other/auth"))[0] == 200
        document = (await client.ask("GET", "/openapi.json"))[1]
        routes = [
            (method.upper(), path)
            for path, found in document["paths"].items()
            for method, about in found.items()
            if path.startswith("/api/") and "fleet" in about.get("tags", ()) and method != "get"
        ]
        assert len(routes) > 25
        await until(lambda: is_looked_at(client))
        before, client.said = await state(client), []
        for method, path in routes:
            for secret in (viewer, developer, key, "nobody", ""):
                if path in OPEN:
                    continue
                status, answer = await client.ask(method, filled(path), secret, json={})
                allowed = {401, 403} if secret not in {viewer, developer} else {403, 404, 415, 422}
                assert status in allowed, (method, path, status, answer)
        assert not [text for text in client.said if key in text or "horse" in text]
        assert await state(client) == before
        assert triton.models == {}
