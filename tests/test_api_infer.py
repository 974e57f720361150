"""``POST /v1/infer``: every task's answer, in JSON and MessagePack, from JSON and raw bodies."""

from __future__ import annotations

import base64
import io
import time

import msgspec
import numpy as np
import pytest
from PIL import Image

from api_answers import JSON, asking, infer, problem, refused
from conftest import picture

PNG = picture()
BOX = [10.0, 8.0, 30.0, 28.0]
COMMON = {"schema_version", "task", "model", "timestamp"}
MSGPACK = {"Accept": "application/msgpack"}
TASK_FIELDS = {
    "detect": {"detections"},
    "track": {"detections"},
    "segment": {"segments"},
    "classify": {"classifications"},
    "pose": {"keypoints"},
    "ocr": {"text", "regions"},
    "depth": {"depth_map", "depth_shape"},
    "vlm": {"text"},
}


async def packed(http, model, **params):
    """Infer with a MessagePack answer; return it decoded."""
    async with http.post("/v1/infer", json=asking(model, PNG, **params), headers=MSGPACK) as answer:
        assert answer.status == 200
        assert answer.content_type == "application/msgpack"
        return msgspec.msgpack.decode(await answer.read())


async def raw(http, status, query, data=PNG, kind="image/png", **headers):
    """POST an image as the body; return the answer's detail or its decoded body."""
    headers = {"Content-Type": kind, **headers}
    async with http.post("/v1/infer", params=query, data=data, headers=headers) as answer:
        if status != 200:
            return await problem(answer, status)
        body = await answer.json()
        assert answer.status == 200, body
        return body


@pytest.mark.parametrize("task", TASK_FIELDS)
async def test_only_the_fields_of_the_task_are_present(http, task):
    """Each task answers mata.v1 with its own fields; all others are absent, not null."""
    body = await infer(http, f"fake-{task}", PNG)
    assert set(body) == COMMON | TASK_FIELDS[task]
    assert body["schema_version"] == "mata.v1"
    assert (body["task"], body["model"]) == (task, f"fake-{task}")
    assert isinstance(body["timestamp"], float)
    assert abs(body["timestamp"] - time.time()) < 60
    assert None not in body.values()


@pytest.mark.parametrize("task", TASK_FIELDS)
async def test_messagepack_holds_the_same_struct(http, task):
    """Accept: application/msgpack answers the same fields."""
    body = await packed(http, f"fake-{task}")
    assert set(body) == COMMON | TASK_FIELDS[task]
    assert body["schema_version"] == "mata.v1"


async def test_detection(http):
    """A detection: label, confidence 0..1, bbox in absolute pixels."""
    body = await infer(http, "fake-detect", PNG)
    assert body["detections"] == [{"label": "64x48", "confidence": 0.9, "bbox": BOX}]


async def test_an_empty_result_is_an_empty_list(http):
    """A task that finds nothing answers its field as an empty list."""
    for task, field in (("detect", "detections"), ("segment", "segments")):
        assert (await infer(http, f"fake-{task}", PNG, confidence=1.0))[field] == []


async def test_segment(http):
    """A segment's mask is a base64 PNG of 0 and 255, of the image's size; without one no key."""
    first, second = (await infer(http, "fake-segment", PNG))["segments"]
    assert set(first) == {"label", "confidence", "bbox", "mask"}
    assert set(second) == {"label", "confidence", "bbox"}
    mask = Image.open(io.BytesIO(base64.b64decode(first["mask"], validate=True)))
    assert (mask.format, mask.mode, mask.size) == ("PNG", "L", (64, 48))
    pixels = np.asarray(mask)
    assert set(np.unique(pixels)) == {0, 255}
    assert (pixels == 255).sum() == 20 * 20
    assert pixels[8:28, 10:30].all()


async def test_mask_in_messagepack_is_raw(http):
    """In MessagePack the mask is the PNG's bytes, and equal to JSON's."""
    body = await infer(http, "fake-segment", PNG)
    mask = (await packed(http, "fake-segment"))["segments"][0]["mask"]
    assert isinstance(mask, bytes)
    assert mask == base64.b64decode(body["segments"][0]["mask"])


async def test_classification(http):
    """Classifications: label and confidence, best first, as many as top_k."""
    for count in (1, 3, 10):
        found = (await infer(http, "fake-classify", PNG, top_k=count))["classifications"]
        assert len(found) == count
        assert all(set(each) == {"label", "confidence"} for each in found)
        scores = [each["confidence"] for each in found]
        assert scores == sorted(scores, reverse=True)


async def test_top_k_is_five_by_default(http):
    """Without top_k there are five classifications."""
    assert len((await infer(http, "fake-classify", PNG))["classifications"]) == 5


async def test_keypoints(http):
    """A pose: label, confidence, bbox and keypoints of x, y and confidence."""
    (found,) = (await infer(http, "fake-pose", PNG))["keypoints"]
    assert found == {"label": "64x48", "confidence": 0.9, "bbox": BOX, "keypoints": [[10, 8, 0.8]]}


async def test_ocr(http):
    """OCR: the text and its regions; a region without a position has bbox null and confidence 1."""
    body = await infer(http, "fake-ocr", PNG)
    assert body["text"] == "64x48"
    assert body["regions"] == [{"text": "64x48", "bbox": None, "confidence": 1.0}]


async def test_depth(http):
    """A depth map is base64 of little-endian float32 in C order, of depth_shape [h, w]."""
    body = await infer(http, "fake-depth", PNG)
    assert body["depth_shape"] == [48, 64]
    data = base64.b64decode(body["depth_map"], validate=True)
    depth = np.frombuffer(data, "<f4").reshape(body["depth_shape"])
    assert np.array_equal(depth[0], np.linspace(0, 1, 64, dtype="<f4"))
    assert np.array_equal(depth[0], depth[47])
    assert (await packed(http, "fake-depth"))["depth_map"] == data


async def test_normalize_false_is_raw_depth(http):
    """Normalize is true by default and can be turned off."""
    body = await infer(http, "fake-depth", PNG, normalize=False)
    assert np.frombuffer(base64.b64decode(body["depth_map"]), "<f4").max() == 10.0


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", JSON),
        ("application/json", JSON),
        ("application/msgpack", "application/msgpack"),
        ("application/x-msgpack", "application/msgpack"),
        ("application/msgpack, application/json;q=0.5", "application/msgpack"),
        ("application/json, application/msgpack", JSON),
        ("application/json;q=0.1, application/msgpack;q=0.9", "application/msgpack"),
        ("application/msgpack; q=0.2, */*", JSON),
        ("application/msgpack;q=0", JSON),
        ("application/json;q=0, application/msgpack;q=0.1, */*", "application/msgpack"),
        ("*/*;q=0.5, application/json;q=0, application/msgpack;q=0.4", "application/msgpack"),
        ("*/*, application/*;q=0.1, application/msgpack;q=0.5", "application/msgpack"),
        ("application/json;q=0, */*", JSON),
        ("application/msgpack;v=1;Q=0.0", JSON),
        ("application/msgpack;q=much", "application/msgpack"),
        ("text/event-stream", "text/event-stream"),
        ("Text/Event-Stream, application/json", "text/event-stream"),
        ("text/event-stream, */*;q=0.1", "text/event-stream"),
        ("text/event-stream;q=0.5, application/msgpack", "application/msgpack"),
        ("text/event-stream;q=0", JSON),
        ("text/html", JSON),
        ("garbage;;;,,", JSON),
    ],
)
async def test_accept_chooses_the_encoding(http, accept, kind):
    """The form with the most weight, of equal ones the first; events where nothing has more."""
    asked = asking("fake-detect", PNG)
    async with http.post("/v1/infer", json=asked, headers={"Accept": accept}) as response:
        assert (response.status, response.content_type) == (200, kind)


async def test_errors_are_json_for_everybody(http):
    """An error is JSON also for a client that accepts MessagePack."""
    await refused(http, 404, "/v1/infer", json=asking("none", PNG), headers=MSGPACK)


@pytest.mark.parametrize("params", [None, {}])
async def test_params_may_be_null_or_absent(http, params):
    """Params is optional."""
    asked = asking("fake-detect", PNG) | {"params": params}
    async with http.post("/v1/infer", json=asked) as response:
        assert response.status == 200
    del asked["params"]
    async with http.post("/v1/infer", json=asked) as response:
        assert response.status == 200


async def test_unknown_fields_beside_params_are_ignored(http):
    """Only params is strict: other unknown fields of the body are ignored."""
    asked = asking("fake-detect", PNG) | {"stream": False, "user": {"id": 1}}
    async with http.post("/v1/infer", json=asked) as response:
        assert response.status == 200


@pytest.mark.parametrize(
    "prefix",
    [
        "data:image/png;base64,",
        "data:image/svg+xml;base64,",
        "DATA:IMAGE/PNG;BASE64,",
        "data:;base64,",
        "data:application/octet-stream;base64,",
        "data:text/plain;base64,",
        "data:image/png;charset=utf-8;base64,",
        'data:image/png;name="a,b; c.png";base64,',
        "data:image/png; base64, ",
        " \ndata:image/png;base64,\n",
        "data:image/png;name=" + "x" * 500 + ";base64,",
    ],
)
async def test_a_data_uri_is_accepted(http, prefix):
    """The head of a data URI is cut off as people write it; the bytes say what the image is."""
    asked = asking("fake-detect", PNG)
    asked["image"] = prefix + asked["image"]
    async with http.post("/v1/infer", json=asked) as response:
        assert (await response.json())["detections"][0]["bbox"] == BOX


@pytest.mark.parametrize(
    ("form", "kind"),
    [("PNG", "image/png"), ("JPEG", "image/jpeg"), ("WEBP", "image/webp"), ("BMP", "image/x-any")],
)
async def test_raw_bodies(http, form, kind):
    """An image may be the body, with the model in the query; its bytes say what it is."""
    body = await raw(http, 200, {"model": "fake-detect"}, picture(form=form), kind)
    assert np.allclose(body["detections"][0]["bbox"], BOX, atol=2)


async def test_raw_bodies_take_params_from_the_query(http):
    """Query fields are converted and checked like a form's."""
    body = await raw(http, 200, {"model": "fake-classify", "top_k": "2"})
    assert len(body["classifications"]) == 2
    body = await raw(http, 200, {"model": "fake-classify", "top_k": "2", "confidence": ""})
    assert len(body["classifications"]) == 2


@pytest.mark.parametrize(
    ("query", "status", "said"),
    [
        ({}, 422, "model: field is required"),
        ({"model": ""}, 422, "model: field is required"),
        ({"model": "none"}, 404, "Model not found: none"),
        ([("model", "fake-detect"), ("model", "fake-ocr")], 422, "model: given twice"),
        ({"model": "fake-detect", "confidence": "2"}, 422, "confidence"),
        ({"model": "fake-detect", "confidence": "nan"}, 422, "confidence"),
        ({"model": "fake-detect", "confidence": "Infinity"}, 422, "confidence"),
        ({"model": "fake-detect", "temperature": "inf"}, 422, "temperature"),
        ({"model": "fake-detect", "top_k": "many"}, 422, "top_k"),
        ({"model": "fake-detect", "threshold": "0.5"}, 422, "use 'confidence'"),
        ({"model": "fake-detect", "target_size": "[1,2]"}, 422, "JSON endpoint"),
        ({"model": "fake-detect", "file": "x"}, 422, "file: unknown parameter"),
        ({"model": "fake-detect", "prompt": "x" * 2000}, 422, "at most 1024 characters"),
    ],
)
async def test_queries_that_are_refused(http, query, status, said):
    """A raw body's query is as strict as a form."""
    assert said in await raw(http, status, query)


async def test_an_empty_raw_body_is_400(http):
    """No bytes are no image."""
    assert await raw(http, 400, {"model": "fake-detect"}, b"") == "image is empty"


async def test_server_timing_of_an_inference(http):
    """Server-Timing names decode, queue, infer, encode and total, in milliseconds."""
    async with http.post("/v1/infer", json=asking("fake-detect", PNG, seconds=0.05)) as response:
        parts = [part.split(";dur=") for part in response.headers["Server-Timing"].split(", ")]
    timing = {name: float(value) for name, value in parts}
    assert list(timing) == ["decode", "queue", "infer", "encode", "total"]
    assert timing["infer"] >= 50
    assert timing["total"] >= timing["infer"]


async def test_the_first_inference_loads_the_model(http):
    """The server loads a registered model on its first call."""
    await infer(http, "fake-detect", PNG)
    async with http.get("/v1/models/fake-detect") as response:
        assert (await response.json())["state"] == "idle"


@pytest.mark.parametrize(
    ("asked", "status", "said"),
    [
        ({}, 422, "model: field is required"),
        ({"image": "AAAA"}, 422, "model: field is required"),
        ({"model": None, "image": "AAAA"}, 422, "model"),
        ({"model": 1, "image": "AAAA"}, 422, "model"),
        ({"model": "", "image": "AAAA"}, 422, "model"),
        ({"model": "x" * 600, "image": "AAAA"}, 422, "model"),
        ({"model": "fake-detect"}, 400, "image: field is required"),
        ({"model": "fake-detect", "image": None}, 400, "image: field is required"),
        ({"model": "fake-detect", "image": 5}, 422, "image"),
        ({"model": "fake-detect", "image": ["AAAA"]}, 422, "image"),
        ({"model": "fake-detect", "image": ""}, 400, "image is empty"),
        ({"model": "fake-detect", "image": "data:image/png;base64,"}, 400, "image is empty"),
        ({"model": "fake-detect", "image": "AAAA", "params": []}, 422, "params"),
        ({"model": "fake-detect", "image": "AAAA", "params": "x"}, 422, "params"),
        ({"model": "none", "image": "AAAA"}, 404, "Model not found: none"),
        ([], 422, "object"),
        ("text", 422, "object"),
    ],
)
async def test_bodies_that_are_refused(http, asked, status, said):
    """A missing or wrong image is 400, everything else that is missing or mistyped 422."""
    assert said in await refused(http, status, "/v1/infer", json=asked)


@pytest.mark.parametrize(
    "image",
    [
        "not base64!",
        "AAAAA",
        "AAAA====",
        "AA=A",
        "AAAA%",
        "ünï",
        "https://example.org/cat.jpg",
        "file:///etc/hostname",
        "data:image/png;base64",
    ],
)
async def test_images_that_are_no_base64(http, image):
    """What is base64 in no way in which it is written is refused; URLs are not fetched."""
    asked = {"model": "fake-detect", "image": image}
    assert await refused(http, 400, "/v1/infer", json=asked) == "image is not valid base64"


@pytest.mark.parametrize("image", ["AAAA", "/etc/hostname///", base64.b64encode(PNG[:60]).decode()])
async def test_base64_that_is_no_image(http, image):
    """Base64 of something else, a path that looks like it, and half an image are 400."""
    asked = {"model": "fake-detect", "image": image}
    assert "cannot be decoded" in await refused(http, 400, "/v1/infer", json=asked)
