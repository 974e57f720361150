"""The pages of the OpenAPI document: their examples work as they stand, and no host is asked."""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode

import aiohttp
import pytest

import chat_models
from browser_pages import CHROMIUM, opened
from conftest import PROTOCOLS, register
from mataserver import testing
from mataserver.http import examples
from mataserver_openai import completions

pytestmark = pytest.mark.long

DEFAULTS = {"opencv-qr": "detect", "rapidocr": "ocr"}
# What a person does: opens the upload and presses "Try it out".
FIELDS = """(async () => {
  const until = async (find) => {
    for (let i = 0; i < 600; i++) {
      const found = find();
      if (found) return found;
      await new Promise((done) => setTimeout(done, 50));
    }
    throw new Error("nothing came of " + find);
  };
  const block = await until(
    () => document.querySelector("#operations-inference-post_v1_infer_upload"));
  block.querySelector(".opblock-summary-control").click();
  (await until(() => block.querySelector(".try-out__btn"))).click();
  await until(() => block.querySelector("input[type=file]"));
  const rows = [...block.querySelectorAll("tr[data-property-name]")];
  return JSON.stringify(rows.map((row) => [
    row.dataset.propertyName,
    row.querySelector("input[type=text], select")?.value ?? null,
    row.querySelector("input[type=checkbox]")?.checked ?? null,
  ]));
})()"""


@pytest.fixture
async def served(tmp_path):
    """A server with the default models, and one that chats under the name of the example."""
    register(tmp_path, {**DEFAULTS, completions.EXAMPLE["model"]: "vlm"})
    points = [chat_models.POINT, *testing.installed(*PROTOCOLS, "opencv", "ocr")]
    keys = ["test-key", examples.LOGIN["key"]]
    async with testing.serving(
        tmp_path, entry_points=points, engine="thread", api_keys=keys
    ) as made:
        yield made


def bodies(operation):
    """Yield what an operation's examples send: a content type and aiohttp's arguments."""
    picture = b64decode(examples.PICTURE)
    for kind, media in operation.get("requestBody", {"content": {}})["content"].items():
        if kind == "application/json":
            yield kind, {"json": media["example"]}
        elif kind == "multipart/form-data":
            yield kind, {"data": form(media["example"])}
        elif kind.startswith("image/"):
            yield kind, {"data": picture, "headers": {"Content-Type": kind}}
    if "requestBody" not in operation:
        yield "", {}


def form(fields):
    """Return a form of fields and the picture."""
    made = aiohttp.FormData({name: str(value) for name, value in fields.items()})
    made.add_field("file", b64decode(examples.PICTURE), filename="code.png")
    return made


def address(path, operation, **known):
    """Return a path with the examples of its parameters, and those of the query."""
    values = {each["name"]: each.get("example") for each in operation["parameters"]} | known
    query = [each["name"] for each in operation["parameters"] if each["in"] == "query"]
    return path.format(**values), {name: values[name] for name in query if values[name]}


async def test_every_example_is_answered(served):
    """Each operation's examples, sent as they stand, are no error; a session's id is a real one."""
    sent = 0
    async with aiohttp.ClientSession(served.url, headers=served.headers) as http:
        async with http.get("/openapi.json") as answer:
            paths = (await answer.json())["paths"]
        every = ((p, method, o) for p, found in paths.items() for method, o in found.items())
        for path, method, operation in every:
            if path.endswith("/snapshot"):
                continue  # of a camera's session, which test_camera_sessions.py has
            for kind, arguments in bodies(operation):
                await http.post("/v1/models/pull", json=examples.PULL)
                await http.post("/v1/models/warmup", json=examples.NAMED)
                async with http.post("/v1/sessions", json=examples.SESSION) as answer:
                    session = (await answer.json())["session_id"]
                if method == "delete" and path.endswith("/v1/models/{model_id}"):
                    async with http.get("/v1/sessions") as answer:
                        for each in await answer.json():  # what is held is not removed
                            await http.delete(f"/v1/sessions/{each['session_id']}")
                if path == "/v1/pulls/{model_id}":  # one that failed is there to be forgotten
                    await http.post("/v1/models/pull", json=examples.PULL | {"task": "classify"})
                where, query = address(path, operation, session_id=session)
                async with http.request(method, where, params=query, **arguments) as answer:
                    said = (await answer.read())[:300]
                    assert answer.status < 400, (method, where, kind, said)
                await http.delete(f"/v1/sessions/{session}")
                sent += 1
    assert sent > 36


async def test_every_body_has_an_example(served):
    """JSON and forms have one; a form's fields all have their own, and the file is a file."""
    async with aiohttp.ClientSession(served.url) as http, http.get("/openapi.json") as answer:
        document = await answer.json()
    for operations in document["paths"].values():
        for operation in operations.values():
            for kind, media in operation.get("requestBody", {"content": {}})["content"].items():
                binary = media["schema"].get("format") == "binary"
                assert binary or media["example"], (operation["operationId"], kind)
    fields = document["components"]["schemas"]["UploadForm"]["properties"]
    assert all("examples" in field for name, field in fields.items() if name != "file")


async def test_the_examples_of_a_forms_fields_are_accepted(served):
    """All fields of the form at once, each with its example, are no error for a default model."""
    async with aiohttp.ClientSession(served.url, headers=served.headers) as http:
        async with http.get("/openapi.json") as answer:
            known = (await answer.json())["components"]["schemas"]["UploadForm"]["properties"]
        fields = {name: field["examples"][0] for name, field in known.items() if name != "file"}
        async with http.post("/v1/infer/upload", data=form(fields)) as answer:
            found = await answer.json()
    assert [each["label"] for each in found["detections"]] == ["mataserver"]


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
async def test_the_form_is_filled_with_what_works(served):
    """The upload's form names a model that is here; every other field is empty and not sent."""
    async with asyncio.timeout(90), opened(f"{served.url}/docs") as page:
        rows = json.loads(await page.evaluate(FIELDS))
    assert rows[0] == ["model", "opencv-qr", None]
    assert len(rows) == 12
    assert all(value in {None, ""} and not sent for _, value, sent in rows[1:])


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize(
    ("name", "shown"),
    [("redoc", "[data-section-id]"), ("docs", ".opblock")],
)
async def test_pages_ask_nobody_else(served, name, shown):
    """Every request of a page goes to the server that it came from, and its pictures are there."""
    known = (served.url, "data:", "blob:")
    async with asyncio.timeout(90), opened(f"{served.url}/{name}") as page:
        while not await page.evaluate(f"document.querySelector('{shown}') !== null"):
            await asyncio.sleep(0.1)
        await asyncio.sleep(1)
        named = await page.evaluate(
            "[...document.querySelectorAll('[src], link[href]')].map((e) => e.src || e.href)"
        )
    assert f"{served.url}/{name}" in page.asked
    assert [each for each in (*page.asked, *named) if not each.startswith(known)] == []


# And then: opens a route, tries it, and looks at the line of curl.
CURL = """(async () => {
  const until = async (find) => {
    for (let i = 0; i < 600; i++) {
      const found = find();
      if (found) return found;
      await new Promise((done) => setTimeout(done, 50));
    }
    throw new Error("nothing came of " + find);
  };
  const block = await until(() => document.querySelector("#operations-sessions-post_v1_sessions"));
  block.querySelector(".opblock-summary-control").click();
  (await until(() => block.querySelector(".try-out__btn"))).click();
  (await until(() => block.querySelector(".execute"))).click();
  return (await until(() => block.querySelector(".curl-command .curl"))).textContent;
})()"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
async def test_a_line_of_curl_carries_a_key(served):
    """What a person copies asks with a key: the cookie of a session is the browser's alone."""
    async with asyncio.timeout(90), opened(f"{served.url}/docs") as page:
        line = await page.evaluate(CURL)
    assert "'Authorization: Bearer YOUR_KEY'" in line
    assert "CSRF" not in line
