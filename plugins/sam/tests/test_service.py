"""The image half of the SAM3 inference API on a real server: every field, every status."""

from __future__ import annotations

import asyncio
import base64
import io
import json

import aiohttp
import numpy as np
import pytest
import pytest_asyncio
from PIL import Image

from mataserver.testing import installed, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

SEGMENT = "/api/v1/image/segment"
CACHED = "/api/v1/image/cached-features"
DOG = {"type": "text", "text": "dog"}
POINT = {"type": "point", "points": [[0.3, 0.4]], "point_labels": [1]}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """``start(checkpoint, **settings)`` is a server, not started yet, with a SAM behind its API."""

    def make(checkpoint, engine="thread", files=None, **settings):
        folder = tmp_path_factory.mktemp("server")
        for name, content in (files or {}).items():
            (folder / name).write_text(content)
        chosen = {**({"model": str(checkpoint)} if checkpoint else {}), **settings.pop("sam", {})}
        return serving(
            folder,
            entry_points=installed("sam"),
            engine=engine,
            threads=1,
            plugins={"sam": chosen},
            **settings,
        )

    return make


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(start, sam3_path):
    """A server with a tiny SAM3 in a process of its own."""
    async with start(sam3_path, engine="process") as served:
        yield served


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http(server):
    """An HTTP session with the server's key."""
    async with aiohttp.ClientSession(server.url, headers=server.headers) as session:
        yield session


@pytest.fixture(scope="module")
def image(picture, png):
    """``image(seed)`` is an image in base64."""
    return lambda seed=0: base64.b64encode(png(picture(seed=seed))).decode()


async def post(http, path, body, **options):
    """Return status and decoded answer of a POST."""
    async with http.post(path, json=body, **options) as answer:
        return answer.status, await answer.json()


async def get(http, path):
    """Return status and decoded answer of a GET."""
    async with http.get(path) as answer:
        return answer.status, await answer.json()


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
    "unwanted box alone": (
        422,
        {"prompts": [{"type": "box", "box": [0.5, 0.5, 0.2, 0.2], "label": False}]},
        "a negative box needs a text",
    ),
    "labels of points": (
        422,
        {"prompts": [{"type": "point", "points": [[0, 0]], "point_labels": [1, 1]}]},
        "prompts[0]: point_labels must be as many as points",
    ),
    "threshold beyond": (422, {"confidence_threshold": 1.5}, "confidence_threshold: expected"),
    "threshold of a text": (422, {"confidence_threshold": "0.5"}, "confidence_threshold"),
    "visualization of a text": (422, {"return_visualization": "yes"}, "return_visualization"),
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
