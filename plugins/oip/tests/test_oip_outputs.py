"""Answers as tensors, task by task, and against what the protocol says of each task."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest

from mataserver import (
    BadRequest,
    Classification,
    ClassifyResult,
    DepthResult,
    Detection,
    DetectResult,
    EmbedResult,
    Keypoint,
    OcrResult,
    OutOfMemory,
    PoseResult,
    Segment,
    SegmentResult,
    TextRegion,
    VlmResult,
)
from mataserver.contract.envelope import Envelope
from mataserver.engines.encoding import encode_body
from mataserver.engines.work import Outcome, Timing
from mataserver.results import TASKS
from mataserver_oip import outputs, signature, tensor

BOX, OTHER = (1.0, 2.0, 3.5, 4.0), (0.0, 0.0, 9.0, 9.0)
KINDS = {"BOOL": np.bool_, "FP32": np.float32, "INT32": np.int32, "INT64": np.int64}
MASK = np.array([[True, False, False], [True, True, False]])

RESULTS = {
    "classify": [
        ClassifyResult([Classification("cat", 0.75), Classification("dog", 0.25)]),
        ClassifyResult([Classification("Hündin", 0.5)]),
    ],
    "depth": [DepthResult(np.ones((2, 3), np.float32)), DepthResult(np.zeros((2, 3), np.float32))],
    "detect": [
        DetectResult([Detection("a", 0.5, BOX), Detection("b", 0.25, OTHER)]),
        DetectResult([]),
    ],
    "embed": [EmbedResult(np.array([1, 0], np.float32)), EmbedResult(np.array([0, 1], np.float32))],
    "ocr": [
        OcrResult("x\ny", [TextRegion("x", BOX, 0.5), TextRegion("y", None, 1.0)]),
        OcrResult("", []),
    ],
    "pose": [
        PoseResult([Keypoint("person", 0.5, BOX, [(1.0, 2.0, 0.5), (3.0, 4.0, 0.25)])]),
        PoseResult([]),
    ],
    "segment": [
        SegmentResult([Segment("a", 0.5, BOX, MASK), Segment("b", 0.25, OTHER)]),
        SegmentResult([Segment("c", 1.0, OTHER, ~MASK)]),
    ],
    "track": [
        DetectResult([Detection("a", 0.5, BOX, track_id=2**40), Detection("b", 0.25, OTHER)]),
        DetectResult([Detection("c", 0.5, BOX, track_id=0)]),
    ],
    "vlm": [VlmResult("two boxes"), VlmResult("")],
}


def whole(task, result, form):
    """Return an answer as a worker encodes it."""
    body = encode_body(result, form, Envelope(task, "org/model"))
    return Outcome(body, Timing()).whole()


def answers(task, results=None):
    """Return the answers as they come from a worker."""
    bodies = [whole(task, each, "msgpack") for each in results or RESULTS[task]]
    return outputs.ModelOutputs(task, bodies)


def array(made):
    """Return a tensor as numpy's."""
    if isinstance(made.data, list):
        return np.array(made.data, dtype=object).reshape(made.shape)
    return np.frombuffer(made.data, KINDS[made.datatype]).reshape(made.shape)


def get(task, name, results=None):
    """Return one output as numpy's array."""
    return array(answers(task, results).tensor(name))


@pytest.mark.parametrize("task", TASKS)
def test_every_output_is_as_its_metadata_say(task):
    """Every task gives what it says it gives: names, datatypes, dimensions and N images."""
    for field in signature.outputs(task):
        made = answers(task).tensor(field.name)
        assert (made.name, made.datatype) == (field.name, field.datatype)
        assert len(made.shape) == len(field.shape)
        assert made.shape[0] == 2
        for size, said in zip(made.shape, field.shape, strict=True):
            assert said in {-1, size}
        count = (
            len(made.data)
            if isinstance(made.data, list)
            else len(made.data) // array(made).itemsize
        )
        assert count == tensor.elements("", made.shape)


def test_rows_are_filled_up():
    """An image with fewer detections than another has rows of nothing; ``count`` tells how many."""
    assert get("detect", "count").tolist() == [2, 0]
    assert get("detect", "boxes").tolist() == [[[*BOX], [*OTHER]], [[0.0] * 4] * 2]
    assert get("detect", "scores").tolist() == [[0.5, 0.25], [0.0, 0.0]]
    assert get("detect", "labels").tolist() == [[b"a", b"b"], [b"", b""]]


def test_nothing_found_at_all():
    """Without any detection the second dimension is 0."""
    nothing = [DetectResult([])] * 3
    assert get("detect", "boxes", nothing).shape == (3, 0, 4)
    assert get("detect", "labels", nothing).shape == (3, 0)
    assert get("segment", "masks", [SegmentResult([])]).shape == (1, 0, 0, 0)
    assert get("pose", "keypoints", [PoseResult([])]).shape == (1, 0, 0, 3)


def test_track_ids():
    """A track without an id, and a row of nothing, have -1."""
    assert get("track", "track_ids").tolist() == [[2**40, -1], [0, -1]]


def test_masks():
    """Masks are booleans of the image's size; an item without one has an empty mask."""
    masks = get("segment", "masks")
    assert masks.shape == (2, 2, 2, 3)
    assert np.array_equal(masks[0, 0], MASK)
    assert not masks[0, 1].any()
    assert np.array_equal(masks[1, 0], ~MASK)


def test_keypoints():
    """Instances with fewer points than others are filled up."""
    points = get("pose", "keypoints")
    assert points.shape == (2, 1, 2, 3)
    assert points[0, 0].tolist() == [[1.0, 2.0, 0.5], [3.0, 4.0, 0.25]]
    assert not points[1].any()


def test_text():
    """Text of an image, texts of its regions; a region without a place has an empty box."""
    assert get("ocr", "text").tolist() == [b"x\ny", b""]
    assert get("ocr", "texts").tolist() == [[b"x", b"y"], [b"", b""]]
    assert get("ocr", "boxes")[0].tolist() == [[*BOX], [0.0] * 4]
    assert get("classify", "labels")[1].tolist() == ["Hündin".encode(), b""]


def test_depth_and_embedding():
    """Maps and vectors are the model's numbers."""
    assert np.array_equal(get("depth", "depth")[0], np.ones((2, 3)))
    assert get("embed", "embedding").tolist() == [[1.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize("task", TASKS)
def test_the_result_is_that_of_the_api(task):
    """``result`` is each answer as ``POST /v1/infer`` gives it."""
    for text, result in zip(get(task, "result"), RESULTS[task], strict=True):
        found, expected = json.loads(text), json.loads(whole(task, result, "json"))
        assert found.pop("timestamp") > 1.7e9
        del expected["timestamp"]
        assert found == expected
        assert (found["schema_version"], found["model"]) == ("mata.v1", "org/model")


@pytest.mark.parametrize(("task", "name"), [("depth", "depth"), ("segment", "masks")])
def test_images_of_different_sizes(task, name):
    """Planes of different sizes do not fit into one tensor: that is said, and the rest is given."""
    other = {
        "depth": DepthResult(np.ones((3, 3), np.float32)),
        "segment": SegmentResult([Segment("a", 0.5, BOX, np.ones((9, 9), bool))]),
    }
    made = answers(task, [RESULTS[task][0], other[task]])
    with pytest.raises(BadRequest, match=f"output '{name}': the images are of different sizes"):
        made.tensor(name)
    assert made.tensor("result").shape == (2,)


def test_masks_that_take_too_much_memory():
    """Masks are not decoded when all of them would not fit."""
    large = Segment("a", 0.5, BOX, np.ones((4_000, 4_000), bool))
    body = msgspec.msgpack.decode(whole("segment", SegmentResult([large]), "msgpack"))
    many = msgspec.msgpack.encode({**body, "segments": body["segments"] * 20})
    with pytest.raises(OutOfMemory, match="masks"):
        outputs.ModelOutputs("segment", [many]).tensor("masks")
