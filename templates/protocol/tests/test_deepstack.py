"""The tests of the plugin, as its author runs them: ``pip install .``, then ``pytest``."""

import io

import aiohttp
import pytest
from PIL import Image

from mataserver.testing import check_plugin

SETTINGS = {"deepstack": {"model": "fake-detect"}}


def picture():
    """Return a JPEG."""
    file = io.BytesIO()
    Image.new("RGB", (64, 48)).save(file, "JPEG")
    return file.getvalue()


def form(**fields):
    """Return a request as camera software sends it."""
    data = aiohttp.FormData(fields)
    data.add_field("image", picture(), filename="image", content_type="image/jpeg")
    return data


def test_plugin_is_sound():
    """The plugin is found, its hooks are valid, and it imports no framework."""
    assert check_plugin("deepstack") == []


@pytest.mark.asyncio
@pytest.mark.parametrize("path", ["detection", "custom/fake-detect"])
async def test_it_answers_with_the_models_detections(mata_client, fake_models, path):
    """The response has DeepStack's form, and the same values as the server's own API."""
    client = await mata_client("deepstack", engine="thread", plugins=SETTINGS)
    url = "/v1/infer?model=fake-detect&confidence=0.1"
    own = (await (await client.post(url, data=picture())).json())["detections"]
    answer = await client.post(f"/v1/vision/{path}", data=form(min_confidence="0.1"))
    body = await answer.json()
    assert (answer.status, body["success"], len(body["predictions"])) == (200, True, len(own))
    for prediction, each in zip(body["predictions"], own, strict=True):
        corners = [prediction[name] for name in ("x_min", "y_min", "x_max", "y_max")]
        assert corners == each["bbox"]
        assert prediction["label"] == each["label"]
        assert prediction["confidence"] == each["confidence"]


@pytest.mark.asyncio
async def test_a_high_minimum_confidence(mata_client, fake_models):
    """``min_confidence`` is applied."""
    client = await mata_client("deepstack", engine="thread", plugins=SETTINGS)
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
    """Every error has DeepStack's form."""
    client = await mata_client("deepstack", engine="thread", plugins=SETTINGS)
    headers = {} if key is None else {"Authorization": key}
    answer = await client.post(f"/v1/vision/{path}", data=data(), headers=headers)
    body = await answer.json()
    assert (answer.status, body["success"]) == (status, False)
    assert body["error"]
