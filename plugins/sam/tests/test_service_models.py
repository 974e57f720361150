"""Servers with other models or none, their limits, and ``/v1/infer`` on SAM."""

from __future__ import annotations

import base64
import io
import json

import aiohttp
import numpy as np
import pytest
from PIL import Image
from served_sam import (  # noqa: F401 - fixtures
    CACHED,
    DOG,
    POINT,
    SEGMENT,
    get,
    http_fixture,
    image_fixture,
    post,
    server_fixture,
    start_fixture,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_sam_two_behind_the_same_api(start, sam2_path, image):
    """A SAM 2 answers points and boxes; a text is refused in words that say what would work."""
    async with (
        start(sam2_path) as server,
        aiohttp.ClientSession(server.url, headers=server.headers) as http,
    ):
        box = {"type": "box", "box": [0.5, 0.5, 0.4, 0.3]}
        body = {"image": image(), "prompts": [POINT, box], "confidence_threshold": 0.0}
        status, answer = await post(http, SEGMENT, body)
        assert (status, answer["num_masks"]) == (200, 2)
        for path, name, asked in ((SEGMENT, "prompts", DOG), (CACHED, "text_prompts", "dog")):
            status, answer = await post(http, path, {"image": image(), name: [asked]})
            said = f"{name}: this model does not take text: use SAM3"
            assert (status, answer["detail"][: len(said)]) == (422, said)


async def test_without_a_model(start, image):
    """No model configured is 503 and says what to set; the rest of the server works."""
    async with (
        start(None) as server,
        aiohttp.ClientSession(server.url, headers=server.headers) as http,
    ):
        for path, extra in ((SEGMENT, {"prompts": [DOG]}), (CACHED, {"text_prompts": ["dog"]})):
            status, answer = await post(http, path, {"image": image(), **extra})
            assert (status, "set plugins.sam.model" in answer["detail"]) == (503, True)
        _, info = await get(http, "/models/info")
        assert info["image_model"] == {
            "loaded": False,
            "checkpoint": "",
            "device": "auto",
            "memory_mb": 0.0,
            "capabilities": [],
        }
        assert (await get(http, "/health"))[0] == 200


async def test_models_that_cannot_be_loaded(start, tiny, sam3_path, tmp_path, image):
    """A model that is not here, none at all, or broken is 503 with the reason, and no path."""
    broken, empty = tmp_path / "broken", tmp_path / "empty"
    tiny.without(sam3_path, broken, "detector_model.text_projection.")
    empty.mkdir()
    for checkpoint, said in (
        ("facebook/sam3", "mataserver pull facebook/sam3 --task segment"),
        (broken, "The model is not loaded: the checkpoint lacks 2 of the weights"),
        (empty, "has no config.json that names a model_type"),
        (tmp_path / "sam3.pt", "a single file of weights cannot be loaded"),
    ):
        async with (
            start(checkpoint) as server,
            aiohttp.ClientSession(server.url, headers=server.headers) as http,
        ):
            status, answer = await post(http, SEGMENT, {"image": image(), "prompts": [DOG]})
            assert (status, said in answer["detail"]) == (503, True), answer
            assert (await get(http, "/models/info"))[1]["image_model"]["loaded"] is False


async def test_the_documents_variables(start, sam2_path, image):
    """``SAM3_CHECKPOINT`` and ``IMAGE_MODEL_DEVICE`` of ``.env`` are the settings' other names."""
    lines = f"SAM3_CHECKPOINT={sam2_path}\nIMAGE_MODEL_DEVICE=cpu\nMAX_CONCURRENT_SESSIONS=3\n"
    async with (
        start("elsewhere", files={".env": lines}) as server,
        aiohttp.ClientSession(server.url, headers=server.headers) as http,
    ):
        body = {"image": image(), "prompts": [POINT], "confidence_threshold": 0.0}
        assert (await post(http, SEGMENT, body))[0] == 200
        _, info = await get(http, "/models/info")
        assert (info["image_model"]["checkpoint"], info["image_model"]["device"]) == (
            str(sam2_path),
            "cpu",
        )


async def test_a_device_that_is_not_here(start, sam2_path, image):
    """``cuda:7`` on a machine without it is 503 and says so."""
    async with (
        start(sam2_path, sam={"device": "cuda:7"}) as server,
        aiohttp.ClientSession(server.url, headers=server.headers) as http,
    ):
        status, answer = await post(http, SEGMENT, {"image": image(), "prompts": [POINT]})
        assert (status, "the device 'cuda:7' was asked for" in answer["detail"]) == (503, True)


async def test_limits(start, sam2_path, image, picture, png):
    """A body over the limit is 413, an image with too many pixels 400; both say the limit."""
    async with (
        start(sam2_path, max_body_mb=0.02, max_pixels=120 * 90) as server,
        aiohttp.ClientSession(server.url, headers=server.headers) as http,
    ):
        large = base64.b64encode(png(np.zeros((100, 120, 3), np.uint8))).decode()
        status, answer = await post(http, SEGMENT, {"image": large, "prompts": [POINT]})
        assert (status, "120x100 pixels, at most 10800" in answer["detail"]) == (400, True)
        status, answer = await post(http, SEGMENT, {"image": "A" * 30_000, "prompts": [POINT]})
        assert (status, "over the limit of 20000 bytes" in answer["detail"]) == (413, True)


async def test_health_may_say_healthy(start, sam2_path):
    """With ``health_status: healthy`` the status is the document's word."""
    async with (
        start(sam2_path, health_status="healthy") as server,
        aiohttp.ClientSession(server.url) as http,
    ):
        assert (await get(http, "/health"))[1]["status"] == "healthy"


async def infer(http, model, image, status=200, **params):
    """POST ``/v1/infer``; return the decoded answer."""
    body = {"model": model, "image": image, "params": params}
    got, answer = await post(http, "/v1/infer", body)
    assert got == status, answer
    return answer


async def test_infer_on_sam3(http, sam3_path, image):
    """``POST /v1/infer`` serves texts, boxes and points of the very model behind the SAM3 API."""
    name = sam3_path.name
    await post(http, SEGMENT, {"image": image(), "prompts": [POINT]})  # registers the directory
    answer = await infer(http, name, image(), prompts="dog . red car", confidence=0.0)
    assert [each["label"] for each in answer["segments"]] == ["dog"] * 12 + ["red car"] * 12
    texts = await infer(http, name, image(), prompts=[" dog", "a.b"], confidence=0.0)
    assert [each["label"] for each in texts["segments"]] == [" dog"] * 12 + ["a.b"] * 12
    mask = Image.open(io.BytesIO(base64.b64decode(answer["segments"][0]["mask"])))
    assert mask.size == (120, 90)
    boxes = await infer(http, name, image(), box_prompts=[[10, 10, 60, 60]], confidence=0.0)
    assert {each["label"] for each in boxes["segments"]} == {"visual"}
    points = await infer(http, name, image(), point_prompts=[[36, 36, 1]], confidence=0.0)
    assert len(points["segments"]) == 1
    refused = await infer(http, name, image(), status=422)
    assert refused["detail"] == "params: give prompts, point_prompts or box_prompts"
    beside = await infer(http, name, image(), status=422, point_prompts=[[500, 36, 1]])
    assert "params.point_prompts[0]: lies outside the image of 120x90" in beside["detail"]


async def test_infer_on_sam_one_and_two(start, sam1_path, sam2_path, image):
    """SAM 1 and 2 take points and boxes, and refuse text by naming what would do."""
    models = [
        {"model": "one", "task": "segment", "path": str(sam1_path)},
        {"model": "two", "task": "segment", "path": str(sam2_path)},
    ]
    async with (
        start(None, models=models) as server,
        aiohttp.ClientSession(server.url, headers=server.headers) as http,
    ):
        for name in ("one", "two"):
            given = {"box_prompts": [[10, 10, 60, 60], [50, 20, 110, 80]], "confidence": 0.0}
            answer = await infer(http, name, image(), **given)
            assert len(answer["segments"]) == 2
            given = {"point_prompts": [[36, 36, 1], [90, 60, 0]], "confidence": 0.0}
            assert len((await infer(http, name, image(), **given))["segments"]) == 1
            refused = await infer(http, name, image(), status=422, prompts="dog")
            said = "params.prompts: this model does not take text: use SAM3, or boxes and points"
            assert refused["detail"] == said


async def test_answers_are_json(http, image):
    """An answer is UTF-8 JSON, its content type says so, and a header tells where time went."""
    async with http.post(SEGMENT, json={"image": image(), "prompts": [POINT]}) as answer:
        assert answer.content_type == "application/json"
        timing = answer.headers["Server-Timing"]
        assert [each.split(";")[0] for each in timing.split(", ")] == [
            "decode", "infer", "encode", "total",
        ]  # fmt: skip
        assert json.loads(await answer.read())["num_masks"] == 1


async def test_the_routes_are_documented(http):
    """Every route of the API but the WebSocket stands in the server's document, with its scope."""
    document = await (await http.get("/openapi.json")).json()
    own = {
        f"{method.upper()} {path}": operation
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if operation["tags"] == ["SAM3"]
    }
    assert len(own) == 15
    assert all(each["security"] == [{"key": ["infer"]}] for each in own.values())
    body = own["POST /api/v1/image/segment"]["requestBody"]["content"]["application/json"]
    assert body["schema"] == {"$ref": "#/components/schemas/SegmentRequest"}
