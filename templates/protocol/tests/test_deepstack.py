"""The tests of the plugin, as its author runs them: ``pip install .``, then ``pytest``."""

import io

import aiohttp
import pytest
from PIL import Image

from mataserver.testing import check_plugin

CHOSEN = {"deepstack": {"model": "fake-detect"}}


def picture():
    """Return a JPEG."""
    file = io.BytesIO()
    Image.new("RGB", (64, 48)).save(file, "JPEG")
    return file.getvalue()


def form(**fields):
    """Return what a camera's software sends."""
    made = aiohttp.FormData(fields)
    made.add_field("image", picture(), filename="image", content_type="image/jpeg")
    return made


def test_plugin_is_sound():
    """The plugin is found, its hooks are well formed, and it imports no framework."""
    assert check_plugin("deepstack") == []


@pytest.mark.asyncio
@pytest.mark.parametrize("path", ["detection", "custom/fake-detect"])
async def test_it_finds_what_the_model_finds(mata_client, fake_models, path):
    """The answer has the client's form, and the same numbers as the server's own."""
    client = await mata_client("deepstack", engine="thread", plugins=CHOSEN)
    url = "/v1/infer?model=fake-detect&confidence=0.1"
    own = (await (await client.post(url, data=picture())).json())["detections"]
    answer = await client.post(f"/v1/vision/{path}", data=form(min_confidence="0.1"))
    said = await answer.json()
    assert (answer.status, said["success"], len(said["predictions"])) == (200, True, len(own))
    for seen, each in zip(said["predictions"], own, strict=True):
        assert [seen[name] for name in ("x_min", "y_min", "x_max", "y_max")] == each["bbox"]
        assert (seen["label"], seen["confidence"]) == (each["label"], each["confidence"])


@pytest.mark.asyncio
async def test_nothing_is_sure_enough(mata_client, fake_models):
    """``min_confidence`` counts."""
    client = await mata_client("deepstack", engine="thread", plugins=CHOSEN)
    answer = await client.post("/v1/vision/detection", data=form(min_confidence="1"))
    assert (await answer.json())["predictions"] == []


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("path", "data", "key", "status"),
    [
        ("detection", form, "", 401),
        ("detection", dict, None, 415),
        ("detection", lambda: form(min_confidence="7"), None, 422),
        ("custom/unknown", form, None, 404),
        ("nothing", form, None, 404),
    ],
)
async def test_errors(mata_client, fake_models, path, data, key, status):
    """Whatever goes wrong is told in the client's form."""
    client = await mata_client("deepstack", engine="thread", plugins=CHOSEN)
    headers = {} if key is None else {"Authorization": key}
    answer = await client.post(f"/v1/vision/{path}", data=data(), headers=headers)
    said = await answer.json()
    assert (answer.status, said["success"]) == (status, False)
    assert said["error"]
