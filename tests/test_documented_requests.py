"""The server takes of a request what its OpenAPI document allows, and refuses what it forbids."""

from __future__ import annotations

import contextlib
import json

import aiohttp
import jsonschema_rs
import pytest

from conftest import POINTS
from mataserver import testing

pytestmark = pytest.mark.long

GUESTS = ("accounts", "cameras", "database", "fleet", "jobs", "reconstruct", "sam")
TEXTS = (
    *("", "0", "1", "-1", "7", "1000", "1001", "2147483647", "9" * 17, "a", "a b", "0.5", "none"),
    *("true", "queued", "queued,done", "queued,lost", "spec,result", "infer", "params", "x" * 300),
    *("2026-11-30", "2026-11-3", "20261130", "*", '"1"', 'W/"1", "2"', '"', "1.0.0", "sparse"),
    *("single", "components", "a.jpg:1,2 b.jpg:3,4 2.5", "a.jpg:1,2 2.5", "sha1 x", "é"),
)
FIELDS = {
    ("/api/apps", "gpus"): (0, 1, 2, None),
    ("/api/apps", "host"): ("", "Shop.example", "[::1]", "http://shop.example", "a_b", None),
    ("/api/users", "tags"): ("", "a,b", "x" * 64, "x" * 65, ",".join("x" * 65)),
    ("/api/models/1/unload", "versions"): ([1],),
    ("/v1/jobs/infer/check", "every"): (0, 1, 1_000_000, 1_000_001),
    ("/v1/jobs/infer/check", "limit"): (0, 1, None),
}
FORMS = "multipart/form-data"


@pytest.fixture
async def http(tmp_path):
    """A client of a server with every plugin that adds routes."""
    points = [*POINTS, *(point for name in GUESTS for point in testing.installed(name))]
    async with (
        testing.serving(tmp_path, entry_points=points, engine="thread") as served,
        aiohttp.ClientSession(
            served.url, headers={"Authorization": f"Bearer {served.key}"}
        ) as client,
    ):
        yield client


@pytest.fixture
async def document(http):
    """Its OpenAPI document."""
    async with http.get("/openapi.json") as answer:
        return await answer.json()


def allows(document, schema, value):
    """Whether the document allows a value; a text may be that of a number."""
    whole = {**schema, "components": document["components"]}
    if schema.get("type") in {"integer", "number", "boolean"}:
        with contextlib.suppress(ValueError):
            value = json.loads(value)
    return jsonschema_rs.is_valid(whole, value, validate_formats=True)


async def refusal(http, method, path, name, **request):
    """Return what an answer says against a parameter or field, or an empty text."""
    async with http.request(method, path, **request) as answer:
        if answer.status not in {400, 412, 422}:
            return ""
        detail = (await answer.json())["detail"]
        return detail if name in detail.partition(":")[0].split(", ") else ""


def parameters(document, places):
    """Yield method, path and parameter of operations without a path variable."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for each in operation["parameters"]:
                if each["in"] in places and "{" not in path and not operation.get("requestBody"):
                    yield method.upper(), path, each


async def test_query_parameters(http, document):
    """Each that the document allows is taken, and each that it forbids is refused by its name."""
    wrong = []
    for method, path, each in parameters(document, {"query"}):
        for text in TEXTS:
            said = await refusal(http, method, path, each["name"], params={each["name"]: text})
            if "next_cursor" not in said and bool(said) is allows(document, each["schema"], text):
                wrong.append((method, path, each["name"], text[:40], said))
    assert not wrong


async def test_options_of_a_reconstruction(http, document):
    """Those in the query are as the document says; an empty one counts as missing."""
    wrong = []
    operation = document["paths"]["/upload"]["post"]
    for each in operation["parameters"]:
        if each["name"] != "matcher":  # which ones there are is known to the server alone
            place = "params" if each["in"] == "query" else "headers"
            for text in TEXTS[1:]:
                request = {place: {each["name"]: text}, "data": b"zip"}
                said = await refusal(http, "POST", "/upload", each["name"], **request)
                if bool(said) is allows(document, each["schema"], text):
                    wrong.append((each["name"], text[:40], said))
    assert not wrong


async def test_conditions(http, document):
    """A change names an ``ETag``, or any: what is none is refused."""
    (header,) = (
        each
        for each in document["paths"]["/api/apps/{identity}"]["patch"]["parameters"]
        if each["name"] == "If-Match"
    )
    async with http.post("/api/apps", json={"name": "shop"}) as answer:
        assert answer.status == 201
    for text in TEXTS:
        request = {"headers": {"If-Match": text}, "json": {}}
        said = await refusal(http, "PATCH", "/api/apps/shop", "If-Match", **request)
        assert bool(said) is not allows(document, header["schema"], text), text


@pytest.mark.parametrize(("path", "name"), FIELDS)
async def test_fields(http, document, path, name):
    """Each value of a field that the document allows is taken, and each that it forbids refused."""
    operation = document["paths"][path.replace("/1/", "/{identity}/")]["post"]
    media = operation["requestBody"]["content"]["application/json"]
    for value in FIELDS[path, name]:
        body = {**media["example"], name: value}
        said = await refusal(http, "POST", path, name, json=body)
        assert bool(said) is not allows(document, media["schema"], body), (value, said)


def test_files_of_forms(document):
    """A form has its files as bytes, which no field of it is as base64."""
    components, found = document["components"]["schemas"], set()
    for path, operations in document["paths"].items():
        content = operations.get("post", {}).get("requestBody", {}).get("content", {})
        if FORMS in content:
            form = components[content[FORMS]["schema"]["$ref"].rpartition("/")[2]]
            assert "contentEncoding" not in json.dumps(form)
            assert '{"type": "string", "format": "binary"}' in json.dumps(form), path
            found.add(path)
    assert {"/v1/infer/upload", "/v1/jobs/infer", "/upload", "/drift", "/api/models"} <= found
