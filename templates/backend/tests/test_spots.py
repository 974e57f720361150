"""The tests of the plugin, as its author runs them: ``pip install .``, then ``pytest``."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from mataserver.testing import check_plugin

SPOT = (10, 8, 30, 28)


@pytest.fixture
def red(tmp_path):
    """Return the configuration of a model that detects red."""
    folder = tmp_path / "red"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "spots"}))
    mean, spread = np.float32([250, 0, 0]), np.float32([20, 20, 20])
    np.savez(folder / "weights.npz", mean=mean, spread=spread)
    return {"model": "red", "task": "detect", "path": str(folder)}


def picture():
    """Return a PNG with a red spot on black."""
    image, file = Image.new("RGB", (64, 48)), io.BytesIO()
    image.paste((255, 0, 0), SPOT)
    image.save(file, "PNG")
    return file.getvalue()


def test_plugin_is_sound():
    """The plugin is found, its hooks are valid, and it imports no framework."""
    assert check_plugin("spots") == []


@pytest.mark.asyncio
@pytest.mark.parametrize(("confidence", "boxes"), [(0.5, [list(map(float, SPOT))]), (0.99, [])])
async def test_it_detects_the_spot(mata_client, red, confidence, boxes):
    """The box matches the spot, to the pixel, if its confidence is high enough."""
    client = await mata_client("spots", engine="thread", models=[red])
    url = f"/v1/infer?model=red&confidence={confidence}"
    detections = (await (await client.post(url, data=picture())).json())["detections"]
    assert [each["bbox"] for each in detections] == boxes


@pytest.mark.asyncio
async def test_a_model_without_its_weights(mata_client, red, tmp_path):
    """The reason is reported as a sentence."""
    (tmp_path / "red" / "weights.npz").unlink()
    client = await mata_client("spots", models=[red])
    ready = await client.get("/ready")
    assert (ready.status, "the model has no weights.npz" in await ready.text()) == (503, True)
