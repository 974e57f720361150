"""The image half of the SAM3 inference API on a real server: every field, every status."""

from __future__ import annotations

import asyncio
import base64
import io

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


async def test_the_documents_request(http, image):
    """The request of the API's document, all three kinds of prompts, gives every field of it."""
    prompts = [
        {"type": "text", "text": "person wearing red shirt"},
        {"type": "box", "box": [0.2, 0.3, 0.4, 0.5], "label": True},
        {"type": "point", "points": [[0.3, 0.4], [0.6, 0.7]], "point_labels": [1, 1]},
    ]
    body = {
        "image": image(),
        "prompts": prompts,
        "confidence_threshold": 0.0,
        "return_visualization": False,
    }
    status, answer = await post(http, SEGMENT, body)
    assert status == 200
    assert answer["num_masks"] == len(answer["masks"]) == 13
    assert all(isinstance(mask, str) and mask for mask in answer["masks"])
    assert all(len(box) == 4 and 0 <= min(box) <= max(box) <= 1 for box in answer["boxes"])
    assert all(0 <= score <= 1 for score in answer["scores"])
    assert answer["labels"] == ["person wearing red shirt"] * 12 + ["visual"]
    assert answer["image_size"] == {"width": 120, "height": 90}
    assert answer["visualization_url"] is None
    assert isinstance(answer["inference_time_ms"], float)


async def test_the_default_threshold(http, image):
    """Without a threshold it is 0.5, which nothing that the tiny model sees by text reaches."""
    status, answer = await post(http, SEGMENT, {"image": image(), "prompts": [DOG]})
    assert (status, answer["num_masks"], answer["masks"]) == (200, 0, [])


async def test_cached_features(http, image):
    """Several texts on one image, in their order; the second request hits the cache."""
    body = {"image": image(20), "text_prompts": ["person", "car", "tree"]}
    body["confidence_threshold"] = 0.0
    answers = [await post(http, CACHED, body) for _ in range(2)]
    assert [status for status, _ in answers] == [200, 200]
    first, second = (answer for _, answer in answers)
    assert (first["cache_hit"], second["cache_hit"]) == (False, True)
    assert first["results"] == second["results"]
    assert [each["prompt"] for each in first["results"]] == ["person", "car", "tree"]
    for each in first["results"]:
        assert set(each) == {"prompt", "masks", "boxes", "scores", "num_masks"}
        assert each["num_masks"] == len(each["masks"]) == len(each["boxes"]) == len(each["scores"])
    assert isinstance(second["inference_time_ms"], float)


async def test_a_visualization_is_a_picture(http, image, picture):
    """The URL leads to a PNG of the image's size on which something is drawn."""
    body = {"image": image(), "prompts": [POINT], "confidence_threshold": 0.0}
    _, answer = await post(http, SEGMENT, {**body, "return_visualization": True})
    async with http.get(answer["visualization_url"]) as got:
        assert (got.status, got.content_type) == (200, "image/png")
        shown = np.asarray(Image.open(io.BytesIO(await got.read())))
    assert shown.shape == (90, 120, 3)
    assert (shown != picture()).any(axis=2).mean() > 0.1


async def test_visualizations_need_the_key(server, http, image):
    """The picture is as closed as the answer was; an unknown one is 404."""
    body = {"image": image(), "prompts": [POINT], "return_visualization": True}
    _, answer = await post(http, SEGMENT, body)
    async with aiohttp.ClientSession(server.url) as stranger:
        assert (await get(stranger, answer["visualization_url"]))[0] == 401
        assert (await post(stranger, SEGMENT, body))[0] == 401
        assert (await get(stranger, "/models/info"))[0] == 401
    status, answer = await get(http, "/api/v1/image/visualizations/nothing.png")
    assert (status, answer["detail"]) == (404, "There is no such visualization, or it has expired")


async def test_mask_formats(http, image):
    """A request chooses the form of its masks; a form that does not exist is 422."""
    body = {"image": image(), "prompts": [DOG], "confidence_threshold": 0.0}
    kinds = {"rle": str, "coco": dict, "png": str, "polygon": list}
    for form, kind in kinds.items():
        _, answer = await post(http, SEGMENT, {**body, "mask_format": form})
        assert {type(mask) for mask in answer["masks"]} == {kind}
        cached = {"image": image(), "text_prompts": ["dog"], "confidence_threshold": 0.0}
        _, answer = await post(http, CACHED, {**cached, "mask_format": form})
        assert {type(mask) for mask in answer["results"][0]["masks"]} == {kind}
    status, answer = await post(http, SEGMENT, {**body, "mask_format": "bitmap"})
    assert (status, "mask_format" in answer["detail"]) == (422, True)


async def test_data_uris(http, image):
    """A browser's prefix before the base64 is read over."""
    body = {"image": "data:image/png;base64," + image(), "prompts": [POINT]}
    assert (await post(http, SEGMENT, body))[0] == 200


async def test_base64_as_people_write_it(http, image):
    """In lines, URL-safe and without padding: as the server's own routes read it."""
    written = image()
    lines = base64.encodebytes(base64.b64decode(written)).decode()
    safe = written.translate(str.maketrans("+/", "-_")).rstrip("=")
    for each in (lines, safe):
        status, answer = await post(http, SEGMENT, {"image": each, "prompts": [POINT]})
        assert (status, answer["num_masks"]) == (200, 1)


SEGMENTS = {
    "no base64": (400, {"image": "!!!"}, "image is not valid base64"),
    "cut base64": (400, {"image": "abcde"}, "image is not valid base64"),
    "no image": (400, {"image": base64.b64encode(b"no image").decode()}, "cannot be decoded"),
    "empty image": (400, {"image": ""}, "image is empty"),
    "image left out": (422, {"image": None}, "image: field is required"),
    "no prompts": (422, {"prompts": []}, "prompts: expected `array` of length >= 1"),
    "prompts of a text": (422, {"prompts": "dog"}, "prompts: expected `array`"),
    "empty text": (422, {"prompts": [{"type": "text", "text": ""}]}, "prompts[0]: text is empty"),
    "long text": (422, {"prompts": [{"type": "text", "text": "a" * 40}]}, "32 tokens"),
    "unknown type": (
        422,
        {"prompts": [{"type": "mask"}]},
        "prompts[0]: type must be text, box or point",
    ),
    "box beyond": (
        422,
        {"prompts": [{"type": "box", "box": [0, 0, 2, 1]}]},
        "prompts[0].box[2]: expected `float` <= 1.0",
    ),
    "labels of points": (
        422,
        {"prompts": [{"type": "point", "points": [[0, 0]], "point_labels": [1, 1]}]},
        "prompts[0]: point_labels must be as many as points",
    ),
    "threshold beyond": (422, {"confidence_threshold": 1.5}, "confidence_threshold: expected"),
    "threshold of a text": (422, {"confidence_threshold": "0.5"}, "confidence_threshold"),
    "visualization of a text": (422, {"return_visualization": "yes"}, "return_visualization"),
    "misspelt threshold": (
        422,
        {"confidence_treshold": 0.0},
        "confidence_treshold: unknown field; did you mean confidence_threshold?",
    ),
}


@pytest.mark.parametrize(("status", "given", "said"), SEGMENTS.values(), ids=SEGMENTS)
async def test_wrong_segment_requests(http, image, status, given, said):
    """Every mistake has its status and one sentence that names what is wrong."""
    body = {"image": image(), "prompts": [DOG], **given}
    assert (got := await post(http, SEGMENT, body))[0] == status, got
    assert said in got[1]["detail"]
    assert set(got[1]) == {"detail"}


CACHES = {
    "no base64": (400, {"image": "!!!"}, "image is not valid base64"),
    "no texts": (422, {"text_prompts": []}, "text_prompts: expected `array` of length >= 1"),
    "empty text": (422, {"text_prompts": ["a", " "]}, "text_prompts[1] is empty"),
    "text of a number": (422, {"text_prompts": [1]}, "text_prompts[0]: expected `str`"),
    "threshold beyond": (422, {"confidence_threshold": -0.1}, "confidence_threshold"),
    "long text": (422, {"text_prompts": ["a" * 40]}, "32 tokens"),
}


@pytest.mark.parametrize(("status", "given", "said"), CACHES.values(), ids=CACHES)
async def test_wrong_cached_requests(http, image, status, given, said):
    """The same for the cached features."""
    body = {"image": image(), "text_prompts": ["dog"], **given}
    assert (got := await post(http, CACHED, body))[0] == status, got
    assert said in got[1]["detail"]


async def test_fields_of_others_are_ignored(http, image):
    """A client of another server may send more; the answer names what was ignored."""
    body = {"image": image(), "prompts": [POINT], "model": "any"}
    async with http.post(SEGMENT, json=body) as answer:
        assert answer.status == 200
        assert answer.headers["X-Warning"] == "model: unknown field, ignored"


@pytest.mark.parametrize("path", [SEGMENT, CACHED])
async def test_bodies_that_are_no_request(http, path):
    """What is no JSON is 400, what is no object 422, another content type 415, a GET 405."""
    json_type = {"Content-Type": "application/json"}
    for data, status in ((b"{", 400), (b"[]", 422), (b"", 400), (b'{"image": "\xff"}', 400)):
        async with http.post(path, data=data, headers=json_type) as answer:
            assert answer.status == status, data
            assert set(await answer.json()) == {"detail"}
    async with http.post(path, data=b"{}", headers={"Content-Type": "text/plain"}) as answer:
        assert answer.status == 415
    assert (await get(http, path))[0] == 405


async def test_many_requests_at_once(http, image):
    """Each of many requests that arrive together gets the answer to its own image and prompts."""
    asked = [
        {
            "image": image(seed),
            "prompts": [{"type": "point", "points": [[0.1 + seed / 20, 0.4]]}],
            "confidence_threshold": 0.0,
        }
        for seed in range(8)
    ]
    alone = [(await post(http, SEGMENT, body))[1] for body in asked]
    together = await asyncio.gather(*(post(http, SEGMENT, body) for body in asked * 2))
    assert {status for status, _ in together} == {200}
    for expected, (_, answer) in zip(alone * 2, together, strict=True):
        assert answer["masks"] == expected["masks"]
        assert answer["scores"] == expected["scores"]
    assert len({answer["masks"][0] for answer in alone}) == 8


async def test_health_and_info_and_metrics(http, image):
    """``/health``, ``/models/info`` and ``/metrics`` tell what the document says they do."""
    await post(http, SEGMENT, {"image": image(), "prompts": [POINT]})
    _, health = await get(http, "/health")
    assert (health["status"], health["active_sessions"]) == ("ok", 0)
    assert isinstance(health["gpu_count"], int)
    assert isinstance(health["gpu_available"], bool)
    _, info = await get(http, "/models/info")
    model = info["image_model"]
    assert (model["loaded"], model["device"]) == (True, "cpu")
    assert model["memory_mb"] > 0
    assert {"text_prompt", "box_prompt", "feature_caching"} <= set(model["capabilities"])
    assert info["server_version"] == health["version"]
    assert isinstance(info["sam3_version"], str)
    async with http.get("/metrics") as answer:
        lines = (await answer.text()).splitlines()
    for name in ("cpu_usage_percent", "memory_usage_percent"):
        [line] = [line for line in lines if line.startswith(f"sam3_{name} ")]
        assert 0 <= float(line.split()[1]) <= 100
    for name in ("gpu_memory_allocated_bytes", "gpu_memory_reserved_bytes"):
        assert f"# TYPE sam3_{name} gauge" in lines
