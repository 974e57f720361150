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
def half():
    """Return a PNG whose left half is white, the right one black."""
    image, file = Image.new("RGB", (64, 48)), io.BytesIO()
    image.paste((255, 255, 255), (0, 0, 32, 48))
    image.save(file, "PNG")
    return file.getvalue()


def test_plugin_is_sound():
    """The plugin is found, its hooks are well formed, and it imports no framework."""
    assert check_plugin("exposure") == []


@pytest.mark.asyncio
@pytest.mark.parametrize("packed", [False, True])
async def test_it_is_answered(mata_client, half, packed):
    """In JSON and in MessagePack, with the parameter that the request sets."""
    client = await mata_client("exposure", engine="thread", models=[MODEL])
    headers = {"Accept": "application/msgpack"} if packed else {}
    decode = msgspec.msgpack.decode if packed else msgspec.json.decode
    for dark, expected in ((0.1, 0.5), (1, 1.0)):
        url = f"/v1/infer?model=exposure&dark={dark}"
        answer = await client.post(url, data=half, headers=headers)
        found = decode(await answer.read())
        assert found["task"] == TASK
        assert found["output"] == {"mean": 0.5, "dark": expected, "burnt": 0.5}


@pytest.mark.asyncio
async def test_a_wrong_parameter_is_told(mata_client, half):
    """As those of the API are."""
    client = await mata_client("exposure", engine="thread", models=[MODEL])
    answer = await client.post("/v1/infer?model=exposure&dark=2", data=half)
    assert (answer.status, "dark" in await answer.text()) == (422, True)


@pytest.mark.asyncio
async def test_the_api_describes_it(mata_client):
    """``/openapi.json`` has what is answered, the model's page what it takes."""
    client = await mata_client("exposure", engine="thread", models=[MODEL])
    document = await (await client.get("/openapi.json")).json()
    shown = document["components"]["schemas"]["Exposure"]
    assert set(shown["properties"]) == {"mean", "dark", "burnt"}
    detail = await (await client.get("/v1/models/exposure?include=params")).json()
    assert (detail["task"], list(detail["params"]["properties"])) == (TASK, ["dark"])


@pytest.mark.asyncio
async def test_a_client_asks_a_server(tmp_path, half):
    """With the worker in a process of its own, by itself and in a session."""
    async with (
        serving(tmp_path, entry_points=installed("exposure"), models=[MODEL]) as server,
        AsyncClient(server.url, server.key) as client,
    ):
        assert (await client.infer("exposure", half)).output["burnt"] == 0.5
        answers = client.stream("exposure", iter([half]))
        assert [each.output["mean"] async for each in answers] == [0.5]
