"""Requests over REST that are malformed, too long, or ask for what there is not."""

from __future__ import annotations

import base64
import io
import json

import aiohttp
import pytest
from rest_requests import IMAGE, INFER, LENGTH, TEXT, binary, body, refused

from api_answers import exchange, head_of
from conftest import POINTS, picture
from mataserver import testing

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


@pytest.mark.parametrize("length", ["99999999", "9" * 5_000, "-1", "x", "1.5", "²", ""])
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
