"""The whole way: a checkpoint pulled or registered, served by child processes, asked over REST."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os

import aiohttp
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModelForDepthEstimation,
    AutoModelForImageClassification,
    AutoModelForObjectDetection,
)

from hub_stand_in import HubStandIn
from mataserver import testing
from mataserver.config import load
from mataserver.library.catalog import Catalog
from mataserver.library.registry import Registry
from mataserver.plugins import discover

pytestmark = pytest.mark.long

POINTS = testing.installed("hf")


def picture():
    """Return a picture that is not square, as pixels and as PNG bytes."""
    pixels = np.random.default_rng(3).integers(0, 255, (90, 140, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return Image.fromarray(pixels), buffer.getvalue()


def direct(path, auto_class):
    """Run transformers itself on the picture; return processor, output and size."""
    image, _ = picture()
    processor = AutoImageProcessor.from_pretrained(path, backend="pil", local_files_only=True)
    model = auto_class.from_pretrained(path, local_files_only=True).eval()
    with torch.inference_mode():
        output = model(**processor(images=image, return_tensors="pt"))
    return processor, model, output, (image.height, image.width)


async def ask(http, model, **params):
    """POST the picture raw; return the decoded answer."""
    headers = {"Content-Type": "image/png"}
    query = {"model": model, **params}
    async with http.post("/v1/infer", params=query, data=picture()[1], headers=headers) as answer:
        body = await answer.json()
        assert answer.status == 200, body
        return body


@pytest.fixture
async def http(tmp_path, checkpoint):
    """A server with tiny checkpoints registered from their directories."""
    settings = load(environ={}, directory=tmp_path, data_dir=str(tmp_path))
    catalog = Catalog(
        settings, Registry(tmp_path / "model_registry.json"), discover(settings, POINTS)
    )
    for name, task in (("detr", "detect"), ("vit", "classify"), ("depth_anything", "depth")):
        catalog.add_local(checkpoint(name), task)
    async with (
        testing.serving(tmp_path, entry_points=POINTS, engine="process") as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as session,
    ):
        yield session


async def test_local_directories_are_served_as_transformers_answers(http, checkpoint):
    """Boxes, classes and depth over REST equal direct transformers calls on the same files."""
    processor, model, output, size = direct(checkpoint("detr"), AutoModelForObjectDetection)
    wanted = processor.post_process_object_detection(output, threshold=0.0, target_sizes=[size])[0]
    found = (await ask(http, "detr", confidence="0"))["detections"]
    order = wanted["scores"].argsort(descending=True)
    assert [d["confidence"] for d in found] == pytest.approx(
        wanted["scores"][order].tolist(), abs=1e-5
    )
    assert [d["label"] for d in found] == [
        model.config.id2label[int(i)] for i in wanted["labels"][order]
    ]

    _, model, output, _ = direct(checkpoint("vit"), AutoModelForImageClassification)
    best, index = output.logits.softmax(-1)[0].topk(2)
    found = (await ask(http, "vit", top_k="2"))["classifications"]
    assert [c["confidence"] for c in found] == pytest.approx(best.tolist(), abs=1e-5)
    assert [c["label"] for c in found] == [model.config.id2label[int(i)] for i in index]

    processor, _, output, size = direct(checkpoint("depth_anything"), AutoModelForDepthEstimation)
    depth = processor.post_process_depth_estimation(output, target_sizes=[size])[0][
        "predicted_depth"
    ]
    depth = (depth - depth.min()) / (depth.max() - depth.min())
    answer = await ask(http, "depth_anything")
    served = np.frombuffer(base64.b64decode(answer["depth_map"]), "<f4").reshape(
        answer["depth_shape"]
    )
    np.testing.assert_allclose(served, depth.numpy(), atol=1e-4)


async def test_a_checkpoint_is_pulled_from_the_hub_and_served(tmp_path, checkpoint, monkeypatch):
    """A real checkpoint comes through the hub's HTTP API and answers; a wrong task is refused."""
    files = {path.name: path.read_bytes() for path in checkpoint("detr").iterdir()}
    with HubStandIn() as hub:
        hub.add("org/tiny-detr", files)
        for name in [n for n in os.environ if n.startswith(("HF_", "HUGGINGFACE_"))]:
            monkeypatch.delenv(name)
        for name, value in hub.environment(tmp_path / "hf").items():
            if name.startswith("HF_"):
                monkeypatch.setenv(name, value)
        async with (
            testing.serving(tmp_path, entry_points=POINTS) as served,
            aiohttp.ClientSession(served.url, headers=served.headers) as http,
        ):
            pulls = [
                await http.post("/v1/models/pull", json={"model": "org/tiny-detr", "task": task})
                for task in ("depth", "detect")
            ]
            assert [pull.status for pull in pulls] == [400, 202]
            assert "mismatch" in (await pulls[0].json())["detail"]
            answers = await asyncio.gather(*(ask(http, "org/tiny-detr") for _ in range(3)))
    assert all(answer["task"] == "detect" for answer in answers)
    registry = json.loads((tmp_path / "model_registry.json").read_text())
    assert registry["models"]["org/tiny-detr"]["source"] == "hf"
