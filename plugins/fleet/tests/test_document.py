"""Every row of MLServe's document, asked as it is written there, and what must never be told."""

from __future__ import annotations

import logging
import re

from onnx_files import adding
from stand_in_triton import stand_ins
from test_models import form

TRITON = {"name", "host", "port", "gpus", "state", "create_at", "id", "ip", "models", "path"}
MODEL = {"id", "name", "path", "latest_version", "inference_count", "last_inference", "state",
         "create_at", "versions", "tritons"}  # fmt: skip
VERSION = {"version", "inference_count", "execution_count", "last_inference", "state"}
USER = {"name", "role", "tags", "apps"}
APP = {"name", "host", "ip", "port", "gpus", "retries", "routes", "consumers", "update_at",
       "create_at"}  # fmt: skip
ROUTE = {"model_name", "protocols", "url", "paths", "create_at"}
CONSUMER = {"name", "tags", "create_at"}
OK = {"status"}
PASSWORDS = ("correct horse 1", "correct horse 2")


def rows(port):
    """Return method, path, request, status, and what of the answer must have which fields."""
    triton = {"name": "t", "host": "127.0.0.1", "port": str(port), "gpus": 1}
    app = {"name": "a", "host": "a.example.com", "ip": "10.0.0.1", "gpus": 1, "retries": 2}
    user = {"name": "ada", "password": PASSWORDS[0], "role": "developer", "tags": "x"}
    files = {"data": form({"model.onnx": adding(1)}, name="m")}
    more = {"data": form({"model.onnx": adding(2)})}
    return [
        ("POST", "/api/tritons", {"json": triton}, 201, {"": TRITON}),
        ("GET", "/api/tritons", {}, 200, {"tritons": TRITON}),
        ("GET", "/api/tritons/t", {}, 200, {"": TRITON}),
        ("PATCH", "/api/tritons/t", {"json": triton}, 200, {"": TRITON | OK}),
        ("POST", "/api/models", files, 201, {"": MODEL, "versions": VERSION}),
        ("GET", "/api/models", {}, 200, {"models": MODEL}),
        ("GET", "/api/models/m", {}, 200, {"": MODEL | {"config"}, "versions": VERSION}),
        ("PATCH", "/api/models/m", {"json": {"description": "d"}}, 200, {"": OK}),
        ("POST", "/api/models/m/load", {}, 200, {"": OK}),
        ("GET", "/api/models/m?triton_id=t", {}, 200, {"tritons": {"ip", "port"}}),
        ("POST", "/api/models/m/unload", {"json": {"triton_id": "t"}}, 200, {"": OK}),
        ("GET", "/api/models/m/versions", {}, 200, {"versions": VERSION}),
        ("POST", "/api/models/m/versions", more, 201, {"": OK}),
        ("DELETE", "/api/models/m/versions?version=2", {}, 200, {"": OK}),
        ("POST", "/api/users", {"json": user}, 201, {"": OK}),
        ("GET", "/api/users", {}, 200, {"users": USER}),
        ("GET", "/api/users/ada", {"json": user}, 200, {"": USER}),
        ("PATCH", "/api/users/ada", {"json": {"password": PASSWORDS[1], "role": "viewer",
                                              "tags": "y"}}, 200, {"": OK}),
        ("POST", "/api/apps", {"json": app}, 201, {"": APP}),
        ("GET", "/api/users/ada/apps", {}, 200, {"": {"apps"}}),
        ("POST", "/api/users/ada/apps/a/auth", {}, 200, {"": OK}),
        ("POST", "/api/users/ada/apps/a/unauth", {}, 200, {"": OK}),
        ("POST", "/api/apps/a/routes/m", {}, 201, {"": OK}),
        ("GET", "/api/apps/a/routes", {}, 200, {"routes": ROUTE}),
        ("POST", "/api/apps/a/consumers/c", {}, 201, {"": OK | CONSUMER}),
        ("GET", "/api/apps/a/consumers", {}, 200, {"consumers": CONSUMER}),
        ("GET", "/api/apps", {}, 200, {"apps": APP}),
        ("GET", "/api/apps/a", {}, 200, {"": APP, "routes": ROUTE, "consumers": CONSUMER}),
        ("PATCH", "/api/apps/a", {"json": app}, 200, {"": APP | OK}),
        ("DELETE", "/api/apps/a/consumers/c", {}, 200, {"": OK}),
        ("DELETE", "/api/apps/a/routes/m", {}, 200, {"": OK}),
        ("DELETE", "/api/apps/a", {}, 200, {"": OK}),
        ("DELETE", "/api/models/m", {}, 200, {"": OK}),
        ("DELETE", "/api/tritons/t", {}, 200, {"": OK}),
        ("DELETE", "/api/users/ada", {}, 200, {"": OK}),
    ]  # fmt: skip


async def test_every_row(serve, tmp_path, caplog):
    """It has its status and its fields, and is in /openapi.json; no secret is told or kept."""
    caplog.set_level(logging.DEBUG)
    async with stand_ins(1) as (triton,), serve(fleet={"probe": 0.1}) as client:
        asked = rows(triton.port)
        for method, path, request, wanted, fields in asked:
            status, answer = await client.ask(method, path, **request)
            assert status == wanted, (method, path, answer)
            for where, names in fields.items():
                found = answer if where == "" else answer[where][0]
                assert names <= set(found), (method, path, names - set(found))
        _, document = await client.ask("GET", "/openapi.json")
        for method, path, *_ in asked:
            place = path.partition("?")[0]
            assert any(
                method.lower() in operations
                and re.fullmatch(re.sub(r"{\w+}", "[^/]+", each), place)
                for each, operations in document["paths"].items()
            ), (method, path)
        status, _ = await client.ask("POST", "/api/models/m")
        assert status == 405
        said = client.said[:-2]
    (key,) = {word for text in said for word in text.split('"') if word.startswith("fleet_")}
    assert sum(key in text for text in said) == 1
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for secret in (*PASSWORDS, key):
        assert secret not in caplog.text
        assert secret.encode() not in kept
    assert not [text for text in said if any(each in text for each in PASSWORDS)]


async def test_what_the_document_calls_it(client):
    """Every answer that the document describes has a type of its own in /openapi.json."""
    _, document = await client.ask("GET", "/openapi.json")
    own = {
        f"{method.upper()} {path}": operation
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if operation["tags"] == ["fleet"]
    }
    assert len(own) >= 45
    for name, operation in own.items():
        first = next(iter(operation["responses"]))
        content = operation["responses"][first].get("content", {})
        assert content, name
        for media in content.values():
            assert media["schema"], name
        problem = operation["responses"]["503"]["content"]["application/json"]["schema"]
        assert problem["$ref"].endswith("/FleetProblem"), name


async def test_what_is_answered_to_pieces_and_by_form(client):
    """A piece of a file is 202, and PATCH takes a form too: /openapi.json says so."""
    _, document = await client.ask("GET", "/openapi.json")
    model = document["paths"]["/api/models/{identity}"]["patch"]
    versions = document["paths"]["/api/models/{identity}/versions"]["post"]
    forms = {"application/json", "multipart/form-data"}
    assert set(model["requestBody"]["content"]) == forms
    assert {"202", "409", "502", "507"} <= set(model["responses"])
    for operation in (model, versions):
        piece = operation["responses"]["202"]["content"]["application/json"]["schema"]
        assert piece["$ref"].endswith("/AddedVersion")


async def test_misspelt_parameters(serve):
    """422 names them: without it a model would be unloaded at every Triton, and all be counted."""
    async with stand_ins(1) as (triton,), serve(fleet={"probe": 0.1}) as client:
        made = {"name": "t", "host": "127.0.0.1", "port": str(triton.port)}
        assert (await client.ask("POST", "/api/tritons", json=made))[0] == 201
        files = form({"model.onnx": adding(1)}, name="m")
        assert (await client.ask("POST", "/api/models", data=files))[0] == 201
        assert (await client.ask("POST", "/api/models/m/load"))[0] == 200
        for method, path in (
            ("POST", "/api/models/m/unload?triton=t"),
            ("POST", "/api/models/m/load?triton=t"),
            ("GET", "/api/models/m?triton=t"),
            ("POST", "/api/models/m/versions?loads=true"),
            ("DELETE", "/api/models/m/versions?versions=1"),
            ("GET", "/api/usage?from=2026-11-01"),
        ):
            status, answer = await client.ask(method, path)
            name = path.partition("?")[2].partition("=")[0]
            assert (status, answer["detail"].partition(":")[0]) == (422, name), path
        assert "m" in triton.models
