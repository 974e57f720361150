"""The Open Inference Protocol over REST: JSON, binary tensors, and everything malformed."""

from __future__ import annotations

import asyncio
import base64
import io
import json

import aiohttp
import pytest

from api_answers import exchange, head_of, no_leak
from conftest import POINTS, picture, register
from mataserver import testing

PNG = picture()
TEXT = base64.b64encode(PNG).decode()
IMAGE = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [TEXT]}
INFER = "/v2/models/fake-detect/infer"
LENGTH = "Inference-Header-Content-Length"


def body(asked, *parts):
    """Return body and headers of a request with binary data."""
    text = json.dumps(asked).encode()
    return {"data": b"".join((text, *parts)), "headers": {LENGTH: str(len(text))}}


def binary(size, name="image", datatype="BYTES", shape=(1,)):
    """Return an input whose data are binary."""
    parameters = {"binary_data_size": size}
    return {"name": name, "datatype": datatype, "shape": [*shape], "parameters": parameters}


async def refused(http, status, path=INFER, method="POST", **request):
    """Ask for what must be refused; return the sentence."""
    async with http.request(method, path, **request) as response:
        answer = await response.json()
        assert response.status == status, answer
        assert response.content_type == "application/json"
        assert response.headers["X-Request-Id"]
    assert list(answer) == ["error"]
    no_leak(answer["error"])
    return answer["error"]


async def infer(http, asked, path=INFER):
    """Infer with JSON alone; return the decoded answer."""
    async with http.post(path, json=asked) as response:
        answer = await response.json()
        assert response.status == 200, answer
        return answer


def values(answer):
    """Return the data of each output of a JSON answer."""
    return {each["name"]: each["data"] for each in answer["outputs"]}


# JSON


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


FLOOD = 150_000


@pytest.mark.parametrize(
    "text",
    [
        b'{"inputs":[%b{}]}' % (b"{}," * FLOOD),
        b'{"inputs":[],"more":[%b{}]}' % (b"{}," * FLOOD),
        b'{"inputs":[],"parameters":{"a":[%b1]}}' % (b"1," * FLOOD),
        b'{"inputs":[{"data":[%b[]],"shape":[1]}],"id":"%b"}' % (b"[]," * FLOOD, b"i" * 2 * FLOOD),
        b'{"inputs":[{"data":[],"shape":[%b1]}]}' % (b"1," * FLOOD),
    ],
)
async def test_floods_beside_the_data_of_tensors(http, text):
    """What would make many objects outside of tensors is 413, whatever field it stands in."""
    assert "beside the data of its tensors" in await refused(http, 413, data=io.BytesIO(text))


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "status", "said"),
    [
        ("UINT8", [1, 1, 3], b"[]," * FLOOD + b"[]", 400, "has 3 elements, got 150001"),
        ("UINT8", [1, FLOOD, 3], b"[]," * 2 * FLOOD + b"[]", 400, "elements, got 300001"),
        ("UINT8", [2, FLOOD], b"[]," * (2 * FLOOD - 1) + b"[]", 400, "flat or nested as the shape"),
        ("UINT8", [FLOOD], b'"1",' * (FLOOD - 1) + b'"1"', 400, "must be numbers"),
        ("UINT8", [FLOOD], b"1," * (FLOOD - 1) + b"256", 400, "are not UINT8"),
        ("UINT8", [FLOOD], b"1," * (FLOOD - 1) + b"1.5", 400, "are not UINT8"),
        ("UINT8", [FLOOD], b"1," * (FLOOD - 1) + b"1-5", 400, "not valid JSON"),
        ("BYTES", [FLOOD], b'"ab",' * (FLOOD - 1) + b'"ab"', 413, "images and long texts"),
        ("BYTES", [1], b"[]," * FLOOD + b"[]", 413, "images and long texts"),
        ("FP64", [FLOOD], b"1," * (FLOOD - 1) + b"1", 400, "'FP64' is not taken"),
    ],
)
async def test_long_lists_that_are_refused(http, datatype, shape, data, status, said):
    """Long lists are compared with their shape before anything is made of them."""
    head = {"inputs": [{"name": "image", "datatype": datatype, "shape": shape, "data": ["@"]}]}
    text = json.dumps(head).encode().replace(b'"@"', data)
    assert said in await refused(http, status, data=io.BytesIO(text))


# binary data


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


# malformed


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "inputs: field is required"),
        ({"inputs": []}, "inputs: expected `array` of length >= 1"),
        ({"inputs": {}}, "inputs: expected `array`"),
        ([], "object"),
        ({"inputs": [{**IMAGE, "shape": [-1]}]}, "inputs[0].shape[0]: expected `int` >= 0"),
        ({"inputs": [{**IMAGE, "shape": [1] * 9}]}, "inputs[0].shape"),
        ({"inputs": [{**IMAGE, "shape": [2**40]}]}, "inputs[0].shape[0]"),
        ({"inputs": [{**IMAGE, "shape": "1"}]}, "inputs[0].shape: expected `array`"),
        ({"inputs": [{**IMAGE, "name": ""}]}, "inputs[0].name"),
        ({"inputs": [{**IMAGE, "datatype": None}]}, "inputs[0].datatype"),
        ({"inputs": [{**IMAGE, "data": TEXT}]}, "data must be a list"),
        ({"inputs": [{**IMAGE, "data": None}]}, "give either data or binary_data_size"),
        ({"inputs": [{**IMAGE, "data": [TEXT, TEXT]}]}, "has 1 elements, got 2"),
        ({"inputs": [{**IMAGE, "data": [1]}]}, "the data are not BYTES"),
        ({"inputs": [{**IMAGE, "data": ["?"]}]}, "image is not valid base64"),
        ({"inputs": [{**IMAGE, "data": [""]}]}, "image is empty"),
        ({"inputs": [{**IMAGE, "shape": [0], "data": []}]}, "1 to 64 images in a request, got 0"),
        ({"inputs": [{**IMAGE, "datatype": "FP64"}]}, "the datatype 'FP64' is not taken"),
        ({"inputs": [{k: v for k, v in IMAGE.items() if k != "data"}]}, "give either data or"),
        (
            {"inputs": [{**IMAGE, "parameters": {"binary_data_size": 3}}]},
            "give either data or binary_data_size",
        ),
        ({"inputs": [binary(3)]}, "binary_data_size is 3, 0 bytes are left"),
        ({"inputs": [binary(-1)]}, "inputs[0].parameters.binary_data_size"),
        ({"inputs": [IMAGE], "outputs": "boxes"}, "outputs: expected `array | null`"),
        ({"inputs": [IMAGE], "outputs": [{}]}, "outputs[0].name: field is required"),
        ({"inputs": [IMAGE], "parameters": []}, "parameters: expected `object | null`"),
        (
            {"inputs": [IMAGE], "parameters": {"binary_data_output": 1}},
            "parameters.binary_data_output: expected `bool`",
        ),
        ({"inputs": [IMAGE], "id": 7}, "id: expected `str | null`"),
    ],
)
async def test_json_that_is_refused(http, asked, said):
    """Each mistake is 400 and one sentence that names its place."""
    assert said in await refused(http, 400, json=asked)


TENSOR = b'{"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": %b}]}'


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"{", b"\xff", b'{"inputs": NaN}'),
        *(TENSOR % wrong for wrong in (b'["\xff"]', b"[NaN]", b"[1,]", b"[" * 99_999)),
    ],
)
async def test_what_is_no_json(http, data):
    """A body that is no JSON is 400."""
    assert "JSON" in await refused(http, 400, data=data)


@pytest.mark.parametrize(
    ("asked", "parts", "said"),
    [
        ([binary(4)], [b"\x00\x00\x00"], "binary_data_size is 4, 3 bytes are left"),
        ([binary(4)], [b"\x00\x00\x00\x00more"], "4 bytes behind the JSON belong to no input"),
        ([IMAGE], [b"more"], "4 bytes behind the JSON belong to no input"),
        ([binary(5)], [b"\x00\x00\x00\x00x"], "1 bytes more than the shape has"),
        ([binary(5)], [b"\x02\x00\x00\x00x"], "the data end within an element"),
        (
            [binary(11, datatype="UINT8", shape=(2, 2, 3))],
            [bytes(11)],
            "UINT8 [2, 2, 3] takes 12 bytes, got 11",
        ),
    ],
)
async def test_binary_data_that_are_refused(http, asked, parts, said):
    """Sizes that do not add up are told with their numbers."""
    assert said in await refused(http, 400, **body({"inputs": asked}, *parts))


@pytest.mark.parametrize("length", ["99999999", "-1", "x", "1.5", "²", ""])
async def test_header_lengths_that_are_refused(server, length):
    """The header must be a number within the body."""
    text = json.dumps({"inputs": [IMAGE]}).encode()
    head = head_of(server, INFER, f"{LENGTH}: {length}", f"Content-Length: {len(text)}")
    status, _, answer = await exchange(server, head, text)
    assert status == 400
    assert LENGTH in json.loads(answer)["error"]


async def test_outputs_that_are_too_long_for_json(data_dir):
    """Millions of numbers are given as binary data only."""
    image = base64.b64encode(picture(2_100, 2_000)).decode()
    asked = {"inputs": [{**IMAGE, "data": [image]}], "outputs": [{"name": "depth"}]}
    path = "/v2/models/fake-depth/infer"
    async with (
        testing.serving(data_dir, entry_points=POINTS, engine="thread") as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        assert "ask for binary data" in await refused(http, 400, path, json=asked)
        asked["parameters"] = {"binary_data_output": True}
        async with http.post(path, json=asked) as response:
            size = int(response.headers["Content-Length"]) - int(response.headers[LENGTH])
    assert size == 2_100 * 2_000 * 4


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v2/models/nobody/infer", 404),
        ("GET", "/v2/models/nobody", 404),
        ("GET", "/v2/models/nobody/ready", 404),
        ("GET", "/v2/models/fake-detect/versions/2", 404),
        ("GET", "/v2/models/fake-detect/versions/2/ready", 404),
        ("POST", "/v2/models/fake-detect/versions/2/infer", 404),
        ("POST", "/v2/repository/models/nobody/load", 404),
        ("POST", "/v2/repository/models/nobody/unload", 404),
        ("GET", "/v2/nothing", 404),
        ("GET", "/v2/models/fake-detect/infer/", 404),
        ("POST", "/v2/models/fake-detect", 405),
        ("DELETE", "/v2", 405),
        ("POST", "/v2/health/live", 405),
    ],
)
async def test_routes_and_names_that_do_not_exist(http, method, path, status):
    """Unknown routes, models and versions, and wrong methods, in the protocol's form."""
    await refused(http, status, path, method, json={"inputs": [IMAGE]})


# names, health


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
