"""Two administrators who change one thing: the second one is told, on every route."""

from __future__ import annotations

import asyncio
import logging
import re

import pytest
from onnx_files import adding
from stand_in_triton import stand_ins
from test_models import form, push

pytestmark = pytest.mark.long

MAKING = {"/api/tritons", "/api/models", "/api/users", "/api/apps", "/api/consumers"}
WITHOUT = MAKING | {"/api/login", "/api/logout"}
"""What changes nothing that was there before."""
STALE = {"If-Match": '"0"'}
EDITS = [
    ("/api/tritons/t", "PATCH", "/api/tritons/t", {"json": {"gpus": 2}}),
    ("/api/models/m", "PATCH", "/api/models/m", {"json": {"description": "d"}}),
    ("/api/models/m", "PATCH", "/api/models/m", {"files": 2}),
    ("/api/models/m", "POST", "/api/models/m/versions", {"files": 3}),
    ("/api/models/m", "POST", "/api/models/m/load", {"json": {"versions": [3]}}),
    ("/api/models/m", "POST", "/api/models/m/load", {"json": {"versions": ["1"]}}),
    ("/api/models/m", "POST", "/api/models/m/load", {"json": {"versions": [3]}}),
    ("/api/models/m", "POST", "/api/models/m/rollback", {}),
    ("/api/models/m", "POST", "/api/models/m/unload", {}),
    ("/api/models/m/versions", "DELETE", "/api/models/m/versions?version=3", {}),
    ("/api/models/m", "DELETE", "/api/models/m/versions/2", {}),
    ("/api/apps/a", "PATCH", "/api/apps/a", {"json": {"retries": 1}}),
    ("/api/apps/a", "POST", "/api/apps/a/routes/m", {}),
    ("/api/apps/a/routes", "PATCH", "/api/apps/a/routes/m", {"json": {"protocols": ["grpc"]}}),
    ("/api/apps/a", "POST", "/api/apps/a/consumers/c", {}),
    ("/api/consumers/c", "PATCH", "/api/consumers/c", {"json": {"rate": 5}}),
    ("/api/consumers/c", "POST", "/api/consumers/c/key", {}),
    ("/api/consumers/c", "POST", "/api/apps/a/consumers/c/key", {}),
    ("/api/consumers/c", "DELETE", "/api/consumers/c/key", {}),
    ("/api/users/ada", "PATCH", "/api/users/ada", {"json": {"role": "viewer"}}),
    ("/api/users/ada", "PATCH", "/api/users/ada", {"json": {"password": "correct horse 2"}}),
    ("/api/users/ada", "POST", "/api/users/ada/apps/a/auth", {}),
    ("/api/users/ada/apps", "POST", "/api/users/ada/apps/a/unauth", {}),
    ("/api/apps/a/consumers", "DELETE", "/api/apps/a/consumers/c", {}),
    ("/api/apps/a", "DELETE", "/api/apps/a/routes/m", {}),
    ("/api/apps/a", "DELETE", "/api/apps/a", {}),
    ("/api/consumers/c", "DELETE", "/api/consumers/c", {}),
    ("/api/users/ada", "DELETE", "/api/users/ada", {}),
    ("/api/models/m", "DELETE", "/api/models/m", {}),
    ("/api/tritons/t", "DELETE", "/api/tritons/t", {}),
]
"""Where a tag is read, and what is changed by it, in an order in which each can be done."""


def _request(given, headers):
    body = {name: value for name, value in given.items() if name != "files"}
    if "files" in given:
        body["data"] = form({"model.onnx": adding(given["files"])})
    return {**body, "headers": headers}


async def test_each_change_by_its_tag(serve, caplog):
    """With the tag that was read it is done, the same again is 412; with an old one nothing is.

    The log says who did it, and nothing of what was refused.
    """
    caplog.set_level(logging.INFO, logger="mataserver.plugin.fleet")
    async with stand_ins(1) as (triton,), serve(fleet={"probe": 0.1}) as client:
        await client.made("/api/tritons", {"name": "t", "host": "127.0.0.1", "port": triton.port})
        await push(client, "m", {"model.onnx": adding(1)})
        await client.made("/api/apps", {"name": "a"})
        await client.person("ada")
        _, me = await client.ask("GET", "/v1/me")
        for read, method, path, given in EDITS:
            await client.ask("GET", read)
            tag = client.headers["ETag"]
            caplog.clear()
            stale, answer = await client.ask(method, path, **_request(given, STALE))
            assert (stale, set(answer)) == (412, {"detail", "error"}), (method, path, answer)
            assert (await client.ask("GET", read))[0] == 200
            assert client.headers["ETag"] == tag, (method, path)
            assert f"({me['id']}) " not in caplog.text, (method, path)
            status, answer = await client.ask(method, path, **_request(given, {"If-Match": tag}))
            assert status in {200, 201}, (method, path, answer)
            assert f"({me['id']}) " in caplog.text, (method, path)
            assert answer.get("tag") in {None, client.headers.get("ETag")}, (method, path)
            again, _ = await client.ask(method, path, **_request(given, {"If-Match": tag}))
            assert again in {404, 412}, (method, path)
            if again == 404:
                assert method == "DELETE"


async def test_each_change_by_its_version(serve):
    """The tag stands in the body as well: stale it is 409, behind a stale ``If-Match`` 412.

    A number may be text, since a user's is; what no tag can be is 422, and says what is. Nothing is
    done by one that is refused.
    """
    async with stand_ins(1) as (triton,), serve(fleet={"probe": 0.1}) as client:
        await client.made("/api/tritons", {"name": "t", "host": "127.0.0.1", "port": triton.port})
        await push(client, "m", {"model.onnx": adding(1)})
        for path, body in (("apps", {"name": "a"}), ("consumers", {"name": "c"})):
            await client.made(f"/api/{path}", body)
        await client.made("/api/apps/a/routes/m")
        await client.person("ada")
        for read, method, path, given in EDITS:
            if method != "PATCH" or "json" not in given:
                continue
            await client.ask("GET", read)
            tag = client.headers["ETag"]

            async def ask(version, body=given["json"], headers=None, where=path):
                edit = {"json": {**body, "version": version}, "headers": headers or {}}
                return await client.ask("PATCH", where, **edit)

            own, user = tag.strip('"'), read == "/api/users/ada"
            for stale in ("0.00000000", f"1{own}") if user else (0, "0", int(own) + 1):
                status, answer = await ask(stale)
                assert (status, set(answer)) == (409, {"detail", "error"}), (path, answer)
                assert own in answer["detail"]
            assert (await ask(stale, headers=STALE))[0] == 412
            assert (await ask(own, headers=STALE))[0] == 412
            assert (await ask(stale, headers={"If-Match": tag}))[0] == 409
            for wrong in (-1, True, 1.5, None, "", "2.50.0", "01", "x" * 129, tag, f"W/{tag}"):
                status, answer = await ask(wrong)
                assert status == 422, (path, wrong)
                assert answer["detail"].startswith("version: "), answer
                assert not isinstance(wrong, str) or "ETag" in answer["detail"], answer
            await client.ask("GET", read)
            assert client.headers["ETag"] == tag, path
            status, answer = await ask(own if user else int(own))
            assert status == 200, (path, answer)
            await client.ask("GET", read)
            assert client.headers["ETag"] != tag, path
            assert (await ask(own))[0] == 409, path


async def test_what_goes_as_a_whole_changes_what_had_it(serve):
    """An application that loses a consumer or a model, a model that loses a Triton: by its tag."""
    async with stand_ins(1) as (triton,), serve(fleet={"probe": 0.1}) as client:
        await client.made("/api/tritons", {"name": "t", "host": "127.0.0.1", "port": triton.port})
        await push(client, "m", {"model.onnx": adding(1)})
        assert (await client.ask("POST", "/api/models/m/load"))[0] == 200
        await client.made("/api/apps", {"name": "a"})
        await client.made("/api/apps", {"name": "other"})
        await client.made("/api/apps/a/routes/m")
        await client.made("/api/apps/a/consumers/c")
        for read, removed in (
            ("/api/apps/a", "/api/consumers/c"),
            ("/api/models/m", "/api/tritons/t?force=true"),
            ("/api/apps/a", "/api/models/m?force=true"),
        ):
            tags = []
            for each in (read, "/api/apps/other"):
                await client.ask("GET", each)
                tags.append(client.headers["ETag"])
            assert (await client.ask("DELETE", removed))[0] == 200
            for each, tag, status in zip((read, "/api/apps/other"), tags, (412, 200), strict=True):
                words = {"description": "d"} if "models" in each else {"retries": 1}
                headers = {"If-Match": tag}
                found, _ = await client.ask("PATCH", each, json=words, headers=headers)
                assert found == status, (each, removed)


async def test_every_route_that_changes_a_thing_knows_it(client):
    """Each says in /openapi.json that it takes ``If-Match`` and answers 412; all are tried here."""
    _, document = await client.ask("GET", "/openapi.json")
    tried = {(method, path.partition("?")[0]) for _, method, path, _ in EDITS}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if operation["tags"] != ["fleet"] or method == "get" or path in WITHOUT:
                continue
            names = {each["name"] for each in operation.get("parameters", ())}
            assert ("If-Match" in names, "412" in operation["responses"]) == (True, True), path
            pattern = re.compile(re.sub(r"{\w+}", "[^/]+", path))
            assert any(method == of.lower() and pattern.fullmatch(each) for of, each in tried), (
                method,
                path,
            )


async def test_one_tag_counts_once(client):
    """Of several changes of a user at one moment by one tag, one is done, whatever they change."""
    names = [f"a{number}" for number in range(6)]
    for name in names:
        await client.made("/api/apps", {"name": name})
    await client.person("ada")
    for verb in ("auth", "unauth"):
        await client.ask("GET", "/api/users/ada")
        headers = {"If-Match": client.headers["ETag"]}
        asked = [("POST", f"/api/users/ada/apps/{name}/{verb}", {}) for name in names]
        asked.append(("PATCH", "/api/users/ada", {"json": {"tags": verb}}))
        answers = await asyncio.gather(
            *(client.ask(method, path, headers=headers, **given) for method, path, given in asked)
        )
        statuses = sorted(status for status, _ in answers)
        assert statuses == [200] + [412] * len(names)
        await asyncio.gather(*(client.ask("POST", path) for _, path, _ in asked[:-1]))
        _, ada = await client.ask("GET", "/api/users/ada")
        assert ada["apps"] == (names if verb == "auth" else [])


async def test_a_tag_is_of_what_is_shown(client):
    """What is read while others change it has the tag of just that: no older one, which is 412."""
    await client.made("/api/apps", {"name": "a"})
    await client.made("/api/consumers", {"name": "c"})
    await client.person("ada")
    writing = asyncio.create_task(_link_again_and_again(client))

    async def look(path):
        seen = {}
        while not writing.done():
            _, shown = await client.ask("GET", path)
            assert seen.setdefault(client.headers["ETag"], shown) == shown

    await asyncio.gather(writing, *(look(path) for path in ("/api/apps/a", "/api/users/ada") * 2))


async def _link_again_and_again(client):
    for number in range(3):
        for method in ("POST", "DELETE"):
            assert (await client.ask(method, "/api/apps/a/consumers/c"))[0] in {200, 201}
        await client.ask("PATCH", "/api/users/ada", json={"tags": f"tag{number}"})


async def test_a_stale_tag_of_a_change_of_nothing(client):
    """A change that says nothing is refused as well by a tag that is not of the user."""
    await client.person("ada")
    status, _ = await client.ask("PATCH", "/api/users/ada", json={}, headers=STALE)
    assert status == 412


async def test_a_stale_tag_of_a_model_that_is_offered(client):
    """The tag is looked at first: 409 would have the client force what somebody else changed."""
    await push(client, "shelf", {"model.onnx": adding(1)})
    await client.made("/api/apps", {"name": "shop"})
    await client.made("/api/apps/shop/routes/shelf")
    assert (await client.ask("DELETE", "/api/models/shelf", headers=STALE))[0] == 412
    assert (await client.ask("DELETE", "/api/models/shelf"))[0] == 409
