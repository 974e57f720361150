"""The tests of the plugin, as its author runs them: ``pip install .``, then ``pytest``."""

import io

import msgspec
import pytest
from PIL import Image

from mataserver.testing import check_plugin, installed, serving
from mataserver_client import AsyncClient

TASK = "exposure.levels"
MODEL = {"model": "exposure", "task": TASK}


@pytest.fixture
def half_white():
    """Return a PNG whose left half is white and right half black."""
    image, file = Image.new("RGB", (64, 48)), io.BytesIO()
    image.paste((255, 255, 255), (0, 0, 32, 48))
    image.save(file, "PNG")
    return file.getvalue()


def test_plugin_is_sound():
    """The plugin is found, its hooks are valid, and it imports no framework."""
    assert check_plugin("exposure") == []


@pytest.mark.asyncio
@pytest.mark.parametrize("use_msgpack", [False, True])
async def test_a_result(mata_client, half_white, use_msgpack):
    """In JSON and in MessagePack, with the parameter that the request sets."""
    client = await mata_client("exposure", engine="thread", models=[MODEL])
    headers = {"Accept": "application/msgpack"} if use_msgpack else {}
    decode = msgspec.msgpack.decode if use_msgpack else msgspec.json.decode
    for dark, expected in ((0.1, 0.5), (1, 1.0)):
        url = f"/v1/infer?model=exposure&dark={dark}"
        answer = await client.post(url, data=half_white, headers=headers)
        result = decode(await answer.read())
        assert result["task"] == TASK
        assert result["output"] == {"mean": 0.5, "dark": expected, "burnt": 0.5}


@pytest.mark.asyncio
async def test_an_invalid_parameter(mata_client, half_white):
    """It is refused, as the API's own parameters are."""
    client = await mata_client("exposure", engine="thread", models=[MODEL])
    answer = await client.post("/v1/infer?model=exposure&dark=2", data=half_white)
    assert (answer.status, "dark" in await answer.text()) == (422, True)


@pytest.mark.asyncio
async def test_the_api_describes_it(mata_client):
    """``/openapi.json`` describes the result, the model's page the parameters."""
    client = await mata_client("exposure", engine="thread", models=[MODEL])
    document = await (await client.get("/openapi.json")).json()
    schema = document["components"]["schemas"]["Exposure"]
    assert set(schema["properties"]) == {"mean", "dark", "burnt"}
    detail = await (await client.get("/v1/models/exposure?include=params")).json()
    assert (detail["task"], list(detail["params"]["properties"])) == (TASK, ["dark"])


@pytest.mark.asyncio
async def test_a_client_of_a_server(tmp_path, half_white):
    """With the worker in a separate process: one request, and a session."""
    async with (
        serving(tmp_path, entry_points=installed("exposure"), models=[MODEL]) as server,
        AsyncClient(server.url, server.key) as client,
    ):
        assert (await client.infer("exposure", half_white)).output["burnt"] == 0.5
        answers = client.stream("exposure", iter([half_white]))
        assert [each.output["mean"] async for each in answers] == [0.5]
