"""The Open Inference Protocol over REST: JSON, binary tensors, and everything malformed."""

from __future__ import annotations

import asyncio
import io
import json

import aiohttp
import pytest
from rest_requests import IMAGE, INFER, LENGTH, TEXT, binary, body, infer, refused, values

from api_answers import exchange, head_of
from conftest import POINTS, register
from mataserver import testing


async def test_json_alone(http):
    """Base64 in, numbers and text out."""
    answer = await infer(http, {"inputs": [IMAGE], "id": "7"})
    assert (answer["model_name"], answer["model_version"], answer["id"]) == (
        "fake-detect",
        "1",
        "7",
    )
    found = values(answer)
    assert found["boxes"] == [10.0, 8.0, 30.0, 28.0]
    assert found["labels"] == ["64x48"]
    assert json.loads(found["result"][0])["task"] == "detect"
    assert {each["name"]: each["shape"] for each in answer["outputs"]} == {
        "count": [1],
        "boxes": [1, 1, 4],
        "scores": [1, 1],
        "labels": [1, 1],
        "result": [1],
    }


async def test_pixels_as_json(http):
    """Pixels may be numbers, flat or nested as their shape."""
    rows = [[[60, 60, 60]] * 4, [[255, 0, 0]] * 4]
    flat = [number for row in rows for pixel in row for number in pixel]
    for data in (rows, flat):
        given = {"name": "image", "datatype": "UINT8", "shape": [2, 4, 3], "data": data}
        found = values(await infer(http, {"inputs": [given]}))
        assert found["boxes"] == [0.0, 1.0, 4.0, 2.0]


async def test_masks_as_json(http):
    """Booleans are JSON's."""
    asked = {"inputs": [IMAGE], "outputs": [{"name": "masks"}]}
    found = values(await infer(http, asked, "/v2/models/fake-segment/infer"))["masks"]
    assert len(found) == 2 * 48 * 64
    assert (found.count(True), set(found)) == (400, {True, False})


async def test_parameters_and_params(http):
    """A list is a parameter too, and a data URI an image."""
    image = {**IMAGE, "data": [f"data:image/png;base64,{TEXT}"]}
    params = {"name": "params", "datatype": "BYTES", "shape": [1], "data": ['{"confidence": 0.2}']}
    asked = {"inputs": [image, params], "parameters": {"prompts": ["a", "b"]}}
    assert values(await infer(http, asked))["count"] == [2]


NULLS = {"id": None, "parameters": None, "outputs": None}


async def test_null_is_as_if_it_were_not_there(http):
    """A null for any optional field of a request asks for nothing."""
    said = {"binary_data_size": None, "shared_memory_region": None}
    output = {"name": "count", "parameters": {"binary_data": None, "classification": None}}
    plain = {**NULLS, "inputs": [{**IMAGE, "parameters": None}]}
    every = {"inputs": [{**IMAGE, "parameters": said}], "outputs": [output]}
    named = {"inputs": [IMAGE], "parameters": {"confidence": None, "binary_data_output": None}}
    for asked in (plain, every, named):
        assert values(await infer(http, asked))["count"] == [1]
    for path, asked in (
        ("index", {"ready": None}),
        ("models/fake-detect/load", {"parameters": None}),
    ):
        async with http.post(f"/v2/repository/{path}", json=asked) as response:
            assert response.status == 200


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({}, None),
        ({"output": None}, None),
        (
            {"output": [{"name": "count"}]},
            "output: unknown field, ignored; did you mean outputs?",
        ),
        ({"confidence": 0.5}, "confidence: unknown field, ignored"),
    ],
)
async def test_fields_of_an_inference_that_are_not_known(http, more, told):
    """A misspelt field is named in X-Warning, in JSON alone and before binary data."""
    pixels = binary(3, datatype="UINT8", shape=(1, 1, 3))
    for asked, data in (({"inputs": [IMAGE]}, b""), ({"inputs": [pixels]}, bytes(3))):
        async with http.post(INFER, **body(asked | more, data)) as response:
            assert (response.status, response.headers.get("X-Warning")) == (200, told)


@pytest.mark.parametrize("name", [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xff\\u0041"])
async def test_a_name_that_is_not_utf8(http, name):
    """An unknown field whose name is no text is skipped, as on the other routes."""
    asked = json.dumps({"inputs": [IMAGE]}).encode()
    async with http.post(INFER, data=asked[:-1] + b', "%b": 1}' % name) as response:
        assert (response.status, response.headers.get("X-Warning")) == (200, None)


async def test_many_pixels_as_json(http):
    """More pixels than are read at once, nested and flat: each is where it was."""
    rows = [[[60, 60, 60]] * 400 for _ in range(300)]
    rows[299][399] = [255, 0, 0]
    flat = [number for row in rows for pixel in row for number in pixel]
    for data in (rows, flat):
        given = {"name": "image", "datatype": "UINT8", "shape": [300, 400, 3], "data": data}
        text = json.dumps({"inputs": [given]}).encode()
        async with http.post(INFER, data=io.BytesIO(text)) as response:
            assert values(await response.json())["boxes"] == [399.0, 299.0, 400.0, 300.0]


async def test_binary_and_json_mixed(http):
    """Inputs and outputs may be binary or JSON one by one."""
    pixels = bytes([60, 60, 60] * 4 + [255, 0, 0] * 4)
    params = {"name": "params", "datatype": "BYTES", "shape": [1], "data": ['{"confidence": 0.2}']}
    asked = {
        "inputs": [params, binary(24, datatype="UINT8", shape=(2, 4, 3))],
        "outputs": [{"name": "boxes", "parameters": {"binary_data": True}}, {"name": "count"}],
    }
    async with http.post(INFER, **body(asked, pixels)) as response:
        assert response.status == 200
        assert response.content_type == "application/octet-stream"
        length, whole = int(response.headers[LENGTH]), await response.read()
    answer = json.loads(whole[:length])
    boxes, count = answer["outputs"]
    assert (boxes["parameters"], "data" in boxes) == ({"binary_data_size": 32}, False)
    assert count["data"] == [2]
    assert list(memoryview(whole[length:]).cast("f")) == [0.0, 1.0, 4.0, 2.0] * 2


async def test_binary_output_by_default(http):
    """``binary_data_output`` counts for outputs that do not say otherwise."""
    asked = {
        "inputs": [IMAGE],
        "parameters": {"binary_data_output": True},
        "outputs": [{"name": "count"}, {"name": "labels", "parameters": {"binary_data": False}}],
    }
    async with http.post(INFER, json=asked) as response:
        whole = await response.read()
        length = int(response.headers[LENGTH])
    count, labels = json.loads(whole[:length])["outputs"]
    assert count["parameters"] == {"binary_data_size": 4}
    assert labels["data"] == ["64x48"]
    assert whole[length:] == b"\x01\x00\x00\x00"


async def test_the_header_may_be_the_whole_body(http):
    """A length that is the body's own is JSON alone."""
    async with http.post(INFER, **body({"inputs": [IMAGE]})) as response:
        assert (await response.json())["outputs"]


@pytest.mark.parametrize("name", ["org/name", "a/b/c", "org/name/ready", "org/versions/1/infer"])
async def test_names_with_slashes(data_dir, name):
    """A slash stands as it is or as %2F; the latter also for names that end like a route."""
    place = data_dir / "checkpoint"
    place.mkdir()
    (place / "config.json").write_text('{"model_type": "fake"}')
    models = [{"model": name, "task": "detect", "path": str(place)}]
    async with (
        testing.serving(data_dir, entry_points=POINTS, engine="thread", models=models) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        path = f"/v2/models/{name.replace('/', '%2F')}"
        status, _, described = await exchange(served, head_of(served, path, method="GET"))
        assert (status, json.loads(described)["name"]) == (200, name)
        answer = await infer(http, {"inputs": [IMAGE]}, f"/v2/models/{name}/infer")
        assert answer["model_name"] == name
        async with http.get(f"/v2/models/{name}/versions/1/ready") as response:
            assert await response.json() == {"name": name, "ready": True}


async def test_health_has_a_body_and_needs_no_key(server):
    """Live and ready answer JSON, without a key; a model's state needs one."""
    async with aiohttp.ClientSession(server.url) as http:
        for path, expected in (("live", {"live": True}), ("ready", {"ready": True})):
            async with http.get(f"/v2/health/{path}") as response:
                assert (response.status, await response.json()) == (200, expected)
        await refused(http, 401, "/v2", "GET")
        await refused(http, 401, "/v2/models/fake-detect/ready", "GET")


async def test_a_model_that_is_not_in_memory_is_not_ready(http):
    """400 with a sentence and the name, until an inference loads it."""
    async with http.get("/v2/models/fake-detect/ready") as response:
        assert response.status == 400
        answer = await response.json()
    assert answer == {
        "name": "fake-detect",
        "ready": False,
        "error": "fake-detect is not in memory; an inference loads it",
    }
    await infer(http, {"inputs": [IMAGE]})
    async with http.get("/v2/models/fake-detect/ready") as response:
        assert await response.json() == {"name": "fake-detect", "ready": True}


async def test_the_index(http):
    """All models or those in memory, each with why it is not ready; no body is needed."""
    await infer(http, {"inputs": [IMAGE]})
    for data in (None, b"{}"):
        async with http.post("/v2/repository/index", data=data) as response:
            found = {each["name"]: each for each in await response.json()}
        assert len(found) == 8
        assert found["fake-ocr"] == {
            "name": "fake-ocr",
            "version": "1",
            "state": "UNAVAILABLE",
            "reason": "unloaded",
        }
    async with http.post("/v2/repository/index", json={"ready": True}) as response:
        assert [each["name"] for each in await response.json()] == ["fake-detect"]


@pytest.mark.parametrize(
    ("path", "asked", "told"),
    [
        ("index", {"redy": True}, "redy: unknown field, ignored; did you mean ready?"),
        ("models/fake-detect/load", {"parms": {}}, "parms: unknown field, ignored"),
        (
            "models/fake-detect/unload",
            {"parameters": {"force": 1}},
            "force: unknown field, ignored",
        ),
        ("models/fake-detect/unload", {"parameters": {"unload_dependents": True}}, None),
        ("models/fake-detect/unload", {"parameters": None}, None),
        ("index", {"ready": True}, None),
    ],
)
async def test_what_is_ignored_is_told(http, path, asked, told):
    """A misspelt filter is not answered with everything without a word."""
    async with http.post(f"/v2/repository/{path}", json=asked) as response:
        assert response.status == 200
        warning = response.headers.get("X-Warning")
        assert warning == told if told is None else warning.startswith(told)


async def test_why_a_model_is_not_ready(data_dir):
    """A load that failed is the reason in the index."""
    settings = {"engine": "thread", "plugins": {"fake": {"load_fails": True}}}
    async with (
        testing.serving(data_dir, entry_points=POINTS, **settings) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        await refused(http, 500, "/v2/repository/models/fake-detect/load")
        async with http.post("/v2/repository/index") as response:
            found = {each["name"]: each["reason"] for each in await response.json()}
        assert found["fake-detect"] == "The model could not be loaded: RuntimeError"


async def test_a_server_that_is_not_ready(data_dir):
    """A preloaded model that does not load keeps the server unready, and the body says why."""
    settings = {
        "models": [{"model": "fake-detect", "preload": True}],
        "plugins": {"fake": {"load_fails": True}},
    }
    async with (
        testing.serving(data_dir, entry_points=POINTS, engine="thread", **settings) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
        http.get("/v2/health/ready") as response,
    ):
        assert response.status == 400
        answer = await response.json()
    assert answer["ready"] is False
    assert answer["error"].startswith("Not ready: fake-detect")


async def test_a_client_that_goes_away_takes_its_images_along(data_dir):
    """Images of a request whose client hung up leave the queue."""
    async with (
        testing.serving(data_dir, entry_points=POINTS, engine="thread") as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        await infer(http, {"inputs": [IMAGE]})
        many = {**IMAGE, "shape": [60], "data": [TEXT] * 60}
        asked = {"inputs": [many], "parameters": {"seconds": 0.1}}
        with pytest.raises(asyncio.TimeoutError):
            await http.post(INFER, json=asked, timeout=aiohttp.ClientTimeout(total=0.3))
        async with asyncio.timeout(3):
            await infer(http, {"inputs": [IMAGE]})


@pytest.mark.parametrize("version", ["", "/versions/1"])
@pytest.mark.parametrize("what", ["config", "stats"])
async def test_extensions_that_are_not_offered(http, what, version):
    """A model's configuration and statistics are refused by the name of their extension."""
    path = f"/v2/models/fake-detect{version}/{what}"
    said = await refused(http, 404, path, "GET")
    extension = {"config": "model_configuration", "stats": "statistics"}[what]
    assert said.startswith(f"This server does not offer the extension {extension}: ")
    assert await refused(http, 404, f"/v2/models/{what}", "GET") == said
    for absent in ("nobody", "fake-detect/versions/2"):
        said = await refused(http, 404, f"/v2/models/{absent}/{what}", "GET")
        assert said.startswith("Model not found: ")


async def test_a_model_whose_name_ends_like_a_path(tmp_path):
    """A registered model with such a name is still described."""
    register(tmp_path, {"org/config": "detect"})
    async with (
        testing.serving(tmp_path, entry_points=POINTS, engine="thread") as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
        http.get("/v2/models/org/config") as response,
    ):
        assert (await response.json())["name"] == "org/config"


async def test_json_of_another_charset_is_415(http):
    """It is read as UTF-8; whoever says that it is another is told so."""
    kind = {"Content-Type": "application/json; charset=utf-16"}
    for path in (INFER, "/v2/repository/index"):
        said = await refused(http, 415, path, data="{}".encode("utf-16"), headers=kind)
        assert "utf-16" in said
