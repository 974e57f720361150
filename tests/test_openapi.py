"""The OpenAPI document: what it says, and that the server does what it says (schemathesis)."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Any

import aiohttp
import jsonschema_rs
import pytest
from msgspec import Struct

from conftest import POINTS
from mataserver import Body, Route, testing
from mataserver.http import openapi
from mataserver.params.table import UPLOAD_FIELDS, ApiParams
from mataserver.principals import ANYBODY, SCOPES
from mataserver.results import InferResponse, ModelInfo

OPERATIONS = {
    ("get", "/docs"),
    ("get", "/health"),
    ("get", "/metrics"),
    ("get", "/openapi.json"),
    ("get", "/ready"),
    ("get", "/redoc"),
    ("get", "/v1/health"),
    ("get", "/v1/models"),
    ("get", "/v1/models/{model_id}"),
    ("delete", "/v1/models/{model_id}"),
    ("get", "/v1/pages"),
    ("get", "/v1/plugins"),
    ("get", "/v1/session"),
    ("get", "/v1/settings"),
    ("post", "/v1/session"),
    ("delete", "/v1/session"),
    ("post", "/v1/session/link"),
    ("get", "/v1/sessions"),
    ("get", "/v1/sessions/{session_id}"),
    ("get", "/v1/sessions/{session_id}/snapshot"),
    ("post", "/v1/infer"),
    ("post", "/v1/infer/upload"),
    ("post", "/v1/models/pin"),
    ("post", "/v1/models/pull"),
    ("get", "/v1/pulls"),
    ("delete", "/v1/pulls/{model_id}"),
    ("post", "/v1/models/unpin"),
    ("post", "/v1/models/unload"),
    ("post", "/v1/models/warmup"),
    ("post", "/v1/sessions"),
    ("delete", "/v1/sessions/{session_id}"),
    ("post", "/v1/chat/completions"),
    ("post", "/openai/v1/chat/completions"),
    ("get", "/openai/v1/models"),
    ("get", "/openai/v1/models/{model_id}"),
    ("delete", "/openai/v1/models/{model_id}"),
    ("get", "/v2"),
    ("get", "/v2/health/live"),
    ("get", "/v2/health/ready"),
    ("get", "/v2/models/{model_id}"),
    ("get", "/v2/models/{model_id}/ready"),
    ("post", "/v2/models/{model_id}/infer"),
    ("get", "/v2/models/{model_id}/versions/{version}"),
    ("get", "/v2/models/{model_id}/versions/{version}/ready"),
    ("post", "/v2/models/{model_id}/versions/{version}/infer"),
    ("post", "/v2/repository/index"),
    ("post", "/v2/repository/models/{model_id}/load"),
    ("post", "/v2/repository/models/{model_id}/unload"),
}
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "missing_required_header",
    "unsupported_method",
    "ignored_auth",
)


@pytest.fixture
async def document(http):
    """The decoded document."""
    async with http.get("/openapi.json") as response:
        assert response.content_type == "application/json"
        return await response.json()


def operations(document):
    """Yield method, path and operation."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def references(node):
    """Yield every $ref of a document."""
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def schema_of(document, path, method="post", kind="application/json"):
    """Return the schema of a request body, with its reference followed."""
    body = document["paths"][path][method]["requestBody"]
    schema = body["content"][kind]["schema"]
    return document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]


async def test_every_route_is_documented(server, document):
    """The document's operations are the API's, and those that the server routes."""
    assert {(method, path) for method, path, _ in operations(document)} == OPERATIONS
    routed = {
        (route.method.lower(), route.resource.canonical)
        for route in server.composed.application.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    hidden = {("get", "/static/{name}"), ("get", "/v1/stream/{session_id}")}
    assert routed - hidden == OPERATIONS


def test_the_document_is_3_1_and_whole(document):
    """Version, names and references are sound."""
    assert document["openapi"].startswith("3.1.")
    ids = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(ids) == len(set(ids))
    for reference in set(references(document)):
        node = document
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]
    for _, path, operation in operations(document):
        named = {each["name"] for each in operation["parameters"] if each["in"] == "path"}
        assert named == set(re.findall(r"\{(\w+)\}", path))


async def test_patterns_of_routes_are_left_out(data_dir):
    """A path's variables are names alone, also where a pattern has braces of its own."""
    points = [*POINTS, *testing.installed("sam")]
    async with (
        testing.serving(data_dir, entry_points=points, engine="thread") as served,
        aiohttp.ClientSession(served.url) as http,
        http.get("/openapi.json") as response,
    ):
        paths = (await response.json())["paths"]
    assert "/api/v1/video/session/{session_id}/object/{obj_id}" in paths
    assert not [path for path in paths if re.search(r"[{}:]", re.sub(r"\{\w+\}", "", path))]


async def test_every_schema_is_one(data_dir):
    """Those of every plugin are JSON Schema 2020-12, whose patterns are not Python's alone."""
    plugins = ("accounts", "cameras", "database", "fleet", "jobs", "reconstruct", "sam")
    points = [*POINTS, *(point for name in plugins for point in testing.installed(name))]
    async with (
        testing.serving(data_dir, entry_points=points, engine="thread") as served,
        aiohttp.ClientSession(served.url) as http,
        http.get("/openapi.json") as response,
    ):
        document = await response.json()
    components = document["components"]
    schemas = components["schemas"]
    assert {"NewTriton", "NewWebhook", "AnnotatedVideoRequest"} <= set(schemas)
    for name in schemas:
        whole = {"$ref": f"#/components/schemas/{name}", "components": components}
        jsonschema_rs.Draft202012Validator(whole)  # raises for what is none
    assert r"\\Z" not in json.dumps(components)  # no end of a text in JavaScript
    file = document["paths"]["/v1/jobs/{id}/files/{name}"]["get"]["responses"]
    for status in ("200", "206"):  # it may be JSON, a video, text
        assert file[status]["content"] == {"*/*": {"schema": {}}}


def test_further_answers_have_their_own_types():
    """``Route.also`` may hold a type that nothing else is answered with, or no body."""

    async def nothing(_request):
        raise AssertionError

    bodies = {202: (Body("application/json", ModelInfo),), 304: ()}
    route = Route("GET", "/thing", nothing, "A thing", "things", also=bodies)
    answers = openapi.document([route], "1")["paths"]["/thing"]["get"]["responses"]
    schema = {"$ref": "#/components/schemas/ModelInfo"}
    assert answers["202"]["content"] == {"application/json": {"schema": schema}}
    assert "content" not in answers["304"]


def test_files_without_a_schema():
    """Texts are texts, JSON may be any, and all else are bytes."""

    async def nothing(_request):
        raise AssertionError

    kinds = ("text/csv", "application/json", "application/zip", "model/gltf-binary")
    route = Route("GET", "/file", nothing, "A file", response=tuple(map(Body, kinds)))
    content = openapi.document([route], "1")["paths"]["/file"]["get"]["responses"]["200"]["content"]
    binary = {"type": "string", "format": "binary"}
    expected = ({"type": "string"}, {}, binary, binary)
    assert [content[kind]["schema"] for kind in kinds] == list(expected)


def test_the_files_of_a_form():
    """Optional and repeated ones are files, too; forms of any fields need no struct."""

    async def handler(_request): ...

    class Upload(Struct):
        file: bytes
        mask: bytes | None
        more: list[bytes | None]
        box: tuple[int, int]

    binary, null = {"type": "string", "format": "binary"}, {"type": "null"}
    optional = {"anyOf": [binary, null]}
    bodies = [Body("multipart/form-data", kind) for kind in (Upload, dict[str, Any], bytes)]
    routes = [Route("POST", f"/{at}", handler, "X", request=(b,)) for at, b in enumerate(bodies)]
    made = openapi.document(routes, "1.0")
    fields = made["components"]["schemas"]["Upload"]["properties"]
    assert (fields["file"], fields["mask"]) == (binary, optional)
    assert fields["more"] == {"type": "array", "items": optional}
    forms = [each["post"]["requestBody"]["content"] for each in made["paths"].values()]
    assert [each["multipart/form-data"]["schema"] for each in forms[1:]] == [
        {"type": "object"},
        binary,
    ]


def test_headers_of_a_routes_own():
    """Those of its answers and of its errors are beside the common ones, each where it is sent."""

    async def nothing(_request):
        raise AssertionError

    own, refused = {"X-Frame-Id": "Its number."}, {"Tus-Version": "1.0.0"}
    route = Route("GET", "/thing", nothing, "A thing", errors=(404,), answer_headers=own,
                  error_headers=refused)  # fmt: skip
    answers = openapi.document([route], "1")["paths"]["/thing"]["get"]["responses"]
    common = {"X-Request-Id", "Server-Timing"}
    assert set(answers["200"]["headers"]) == common | {"X-Warning", "X-Frame-Id"}
    assert answers["200"]["headers"]["X-Frame-Id"] == {
        "description": "Its number.",
        "schema": {"type": "string"},
    }
    assert set(answers["404"]["headers"]) == common | {"Tus-Version"}


def test_guarded_routes_say_so(document):
    """Operations that need a key name its scope and document 401 and 403; open ones none."""
    for method, path, operation in operations(document):
        guarded = path.startswith(("/v1/", "/v2", "/openai/")) and "/health" not in path
        guarded = guarded and not (path == "/v1/session" and method != "get")
        (security,) = operation["security"] or [{}]
        assert (list(security) == ["key"]) is guarded
        assert all(scope in {*SCOPES, ANYBODY} for scope in security.get("key", ()))
        if path != "/v1/session":  # which refuses what it is shown, and needs nothing itself
            assert ({"401", "403"} <= set(operation["responses"])) is guarded


def test_every_error_is_a_detail(document):
    """Each documented error is the struct with the one sentence; a 5xx may say when to retry.

    Routes of other protocols have the struct of their protocol, and those that two share either. A
    507 of the API's own may have figures beside the sentence.
    """
    forms = {"/v2": "InferenceProblem", "/openai": "ChatProblem", "/v1/chat": "ChatProblem"}
    shared = {
        ("get", "/v1/models"),
        *((each, "/v1/models/{model_id}") for each in ("get", "delete")),
    }
    for method, path, operation in operations(document):
        form = next((form for root, form in forms.items() if path.startswith(root)), "Problem")
        schema = {"$ref": f"#/components/schemas/{form}"}
        if (method, path) in shared:
            schema = {"anyOf": [schema, {"$ref": "#/components/schemas/ChatProblem"}]}
        problem = {"application/json": {"schema": schema}}
        for status, answer in operation["responses"].items():
            assert {"X-Request-Id", "Server-Timing"} <= set(answer["headers"])
            if status >= "400":
                own = "MemoryProblem" if (form, status) == ("Problem", "507") else form
                alone = {"application/json": {"schema": {"$ref": f"#/components/schemas/{own}"}}}
                assert answer["content"] in (problem, alone)
                assert ("Retry-After" in answer["headers"]) is (status >= "500")
    assert document["components"]["schemas"]["Problem"]["required"] == ["detail"]


def test_documented_statuses(document):
    """The statuses of the API's tables."""
    said = {
        (method, path): set(operation["responses"])
        for method, path, operation in operations(document)
    }
    assert {"200", "400", "404", "422", "500", "503", "507"} <= said["post", "/v1/infer"]
    assert said["post", "/v1/infer"] == said["post", "/v1/infer/upload"]
    assert {"202", "400", "409", "500"} <= said["post", "/v1/models/pull"]
    assert {"200", "404", "500", "507"} <= said["post", "/v1/models/warmup"]
    assert {"201", "404", "503", "507"} <= said["post", "/v1/sessions"]
    assert said["delete", "/v1/sessions/{session_id}"] == {
        *("204", "400", "401", "403", "404", "409", "503")
    }


def test_parameters_are_those_of_the_table(document):
    """JSON lists all parameters, a form and a query those that they can carry."""
    table = set(ApiParams.__struct_fields__)
    body = schema_of(document, "/v1/infer")
    assert set(body["required"]) == {"model", "image"}
    assert set(document["components"]["schemas"]["ApiParams"]["properties"]) == table
    form = schema_of(document, "/v1/infer/upload", kind="multipart/form-data")
    assert set(form["properties"]) == {"model", "file"} | UPLOAD_FIELDS
    assert set(form["required"]) == {"model", "file"}
    query = document["paths"]["/v1/infer"]["post"]["parameters"]
    assert {each["name"] for each in query} == {"model"} | UPLOAD_FIELDS
    assert all(each["in"] == "query" and not each["required"] for each in query)


def test_answers_are_the_wire_structs(document):
    """The answers' schemas have the structs' fields."""
    schemas = document["components"]["schemas"]
    assert set(schemas["InferResponse"]["properties"]) == set(InferResponse.__struct_fields__)
    assert set(schemas["ModelInfo"]["properties"]) == set(ModelInfo.__struct_fields__)
    content = document["paths"]["/v1/infer"]["post"]["responses"]["200"]["content"]
    assert {"application/json", "application/msgpack"} <= set(content)


async def test_the_server_does_what_the_document_says(data_dir, monkeypatch):
    """Schemathesis: no 5xx, no undocumented status or type, wrong data refused, keys demanded."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # closed: a hub id fails at once
    settings = {"engine": "thread", "max_sessions": 1_000_000, "allow_pip_pull": False}
    async with testing.serving(data_dir, entry_points=POINTS, **settings) as served:
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("st")),
            *("run", f"{served.url}/openapi.json", "-H", f"Authorization: Bearer {served.key}"),
            *("--checks", ",".join(CHECKS), "--phases", "examples,coverage,fuzzing"),
            *("--max-examples", "10", "--generation-deterministic", "--no-color"),
            cwd=data_dir,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
    report = output.decode()
    assert process.returncode == 0, report[report.find("= FAILURES") :]
    assert f"Tested: {len(OPERATIONS) - 1}" in report  # all but the document itself
