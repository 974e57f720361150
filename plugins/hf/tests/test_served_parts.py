"""Pose and text recognition over REST: a model with a part of it, in one child process."""

from __future__ import annotations

import io

import aiohttp
import numpy as np
import pytest
from PIL import Image

from mataserver import testing
from mataserver.config import load
from mataserver.library.catalog import Catalog
from mataserver.library.registry import Registry
from mataserver.plugins import discover
from mataserver_hf import detect, pose

POINTS = testing.installed("hf")
PARTS = {"hf": {"person_detector": "rt_detr"}}


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


async def ask(http, model, pixels, status=200, **params):
    """POST a picture raw; return the decoded answer."""
    headers = {"Content-Type": "image/png"}
    query = {"model": model, **params}
    async with http.post("/v1/infer", params=query, data=png(pixels), headers=headers) as answer:
        body = await answer.json()
        assert answer.status == status, body
        return body


@pytest.fixture
async def http(tmp_path, checkpoint):
    """A server whose pose models stand on a tiny RT-DETR, which is not registered yet."""
    settings = load(environ={}, directory=tmp_path, data_dir=str(tmp_path))
    catalog = Catalog(
        settings, Registry(tmp_path / "model_registry.json"), discover(settings, POINTS)
    )
    for name, task in (("vitpose", "pose"), ("trocr", "ocr")):
        catalog.add_local(checkpoint(name), task)
    async with (
        testing.serving(tmp_path, entry_points=POINTS, engine="process", plugins=PARTS) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as session,
    ):
        session.catalog = catalog
        yield session


async def test_pose_and_text_are_served(http, checkpoint, model, picture, tiny_reading):
    """Pose asks for its detector, then answers people with joints; TrOCR answers its line."""
    image = np.array(picture(90, 150))
    missing = await ask(http, "vitpose", image, status=503)
    assert "mataserver pull rt_detr --task detect" in missing["detail"]

    http.catalog.add_local(checkpoint("rt_detr"), "detect")
    [found] = model("rt_detr").predict([image], [detect.DetectParams(confidence=0.0)])
    people = [each for each in found.detections if each.label == "person"]
    items = (await ask(http, "vitpose", image, confidence="0"))["keypoints"]
    assert [item["bbox"] for item in items] == [
        pytest.approx(each.bbox, abs=0.01) for each in people
    ]
    assert {item["label"] for item in items} == {pose.PERSON}
    assert {len(item["keypoints"]) for item in items} == {17}
    assert {len(joint) for item in items for joint in item["keypoints"]} == {3}

    grey, text = next(iter(tiny_reading.LINES.items()))
    answer = await ask(http, "trocr", np.full((24, 96, 3), grey, np.uint8), max_tokens="4")
    assert answer["text"] == text[:4]
    assert answer["regions"] == [{"text": text[:4], "bbox": None, "confidence": 1.0}]
    assert answer["usage"] == {"prompt_tokens": 0, "completion_tokens": 4, "truncated": True}
