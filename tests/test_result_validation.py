"""What a model may return, what of it is put right, and what is said of anything else."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mataserver import (
    Classification,
    ClassifyResult,
    DepthResult,
    Detection,
    DetectResult,
    EmbedResult,
    Entity,
    Keypoint,
    OcrResult,
    PoseResult,
    Segment,
    SegmentResult,
    TextRegion,
    Usage,
    VlmResult,
)
from mataserver.engines.result_validation import InvalidResultError, validate_result

SIZE = (48, 64)
"""Height and width of the image."""
BOX = (1.0, 2.0, 3.0, 4.0)
POINTS = [(1.0, 2.0, 0.5), (-3.0, 4.0, 1.0)]
EMPTY = np.zeros((0, 3), np.float32)
MASK = np.zeros(SIZE, bool)
ENDLESS = {}
ENDLESS["itself"] = ENDLESS


class Cat(Detection, frozen=True):
    """A struct of a plugin's own."""


def detected(**changes):
    """Return a result with a sound detection before one that is changed."""
    fields = {"label": "cat", "confidence": 0.5, "bbox": BOX} | changes
    return DetectResult([Detection("dog", 1.0, (0.0, 0.0, 64.0, 48.0)), Detection(**fields)])


def posed(points, **changes):
    """Return a result with one instance."""
    return PoseResult([Keypoint("person", changes.get("confidence", 0.5), BOX, points)])


def masked(mask):
    """Return a result with a mask."""
    return SegmentResult([Segment("cat", 0.5, BOX, mask)])


@pytest.mark.parametrize(
    ("task", "result"),
    [
        ("detect", DetectResult([])),
        ("detect", detected()),
        ("track", detected(track_id=3)),
        ("detect", detected(bbox=(5.0, 5.0, 5.0, 5.0))),
        ("detect", detected(extra={"corners": [[1.0, 2], (3, 4)], "a": {"b": [None, True, "c"]}})),
        ("segment", masked(MASK)),
        ("segment", SegmentResult([Segment("cat", 0.5, BOX)])),
        ("segment", masked(None)),
        ("classify", ClassifyResult([Classification("cat", 0.5)])),
        ("pose", posed(POINTS)),
        ("pose", posed([])),
        ("ocr", OcrResult("a", [TextRegion("a", None, 1.0), TextRegion("b", BOX, 1.0)])),
        ("vlm", VlmResult(text="a cat", usage=Usage(3, 4), entities=[Entity("cat")])),
        ("depth", DepthResult(np.full((2, 3), 3e38, np.float32))),
        ("depth", DepthResult(np.float32([[-3e38, -0.0], [0.0, 3e38]]))),
        ("depth", DepthResult(np.float32([[1, 2], [3, 4]])[::-1, ::-1])),
        ("embed", EmbedResult(np.ones(3, np.float32))),
    ],
)
def test_what_is_sound_is_served_as_it_is(task, result):
    """Empty lists and boxes, points beside the image and the largest numbers are no mistake."""
    assert validate_result(result, task, SIZE) == result


@pytest.mark.parametrize(
    ("given", "served"),
    [
        (detected(bbox=[0, 0, 1, 1]), detected(bbox=(0.0, 0.0, 1.0, 1.0))),
        (detected(confidence=1), detected(confidence=1.0)),
        (detected(confidence=np.float64(0.5)), detected()),
        (detected(confidence=1.0004), detected(confidence=1.0)),
        (detected(confidence=-1e-7), detected(confidence=0.0)),
        (detected(bbox=(-0.9, -1.0, 64.5, 49.0)), detected(bbox=(0.0, 0.0, 64.0, 48.0))),
        (DetectResult([Cat("cat", 1, BOX)]), DetectResult([Cat("cat", 1.0, BOX)])),
        (posed([(1, 2, 1)]), posed([(1.0, 2.0, 1.0)])),
        (posed([(1.0, 2.0, 1.0005)]), posed([(1.0, 2.0, 1.0)])),
    ],
)
def test_rounding_is_put_right(given, served):
    """Whole numbers become floats; a pixel, or a thousandth of a confidence, is clipped."""
    task = type(given).tasks[0]
    found = validate_result(given, task, SIZE)
    assert found == served
    assert repr(found) == repr(served)


@pytest.mark.parametrize(
    ("task", "result", "words"),
    [
        ("detect", {"detections": []}, "expected a result struct, got dict"),
        ("depth", detected(), "does not belong to the task depth"),
        ("detect", DetectResult(()), "detections must be a list"),
        ("detect", DetectResult("many"), "detections must be a list"),
        ("detect", DetectResult([{"label": "cat"}]), r"detections\[0\] is a dict"),
        ("detect", DetectResult([Segment("cat", 0.5, BOX)]), r"detections\[0\] is a Segment"),
        ("detect", detected(confidence=33.0), r"\[1\].confidence is 33, not within 0 to 1"),
        ("detect", detected(confidence=-0.01), r"\[1\].confidence is -0.01, not within"),
        ("detect", detected(confidence=math.nan), r"detections\[1\].confidence is not a finite"),
        ("detect", detected(confidence="0.5"), r"\[1\].confidence is not a finite"),
        ("detect", detected(confidence=True), r"\[1\].confidence is not a finite"),
        ("detect", detected(confidence=np.float32(0.5)), r"\[1\].confidence is not a finite"),
        ("detect", detected(bbox=(1.0, 2.0, 3.0)), r"\[1\].bbox is not four finite numbers"),
        ("detect", detected(bbox=None), r"\[1\].bbox is not four finite numbers"),
        ("detect", detected(bbox=7), r"\[1\].bbox is not four finite numbers"),
        ("detect", detected(bbox=(1.0, 2.0, 3.0, math.inf)), r"\[1\].bbox is not four finite"),
        ("detect", detected(bbox=(math.nan, 2.0, 3.0, 4.0)), r"\[1\].bbox is not four finite"),
        ("detect", detected(bbox=(math.inf, 2.0, 3.0, -math.inf)), r"\[1\].bbox is not four"),
        ("detect", detected(bbox=np.array(BOX, np.float32)), r"\[1\].bbox is not four finite"),
        ("detect", detected(bbox="1234"), r"\[1\].bbox is not four finite numbers"),
        ("detect", detected(bbox=(9.0, 2.0, 3.0, 4.0)), r"\[1\].bbox is \[9, 2, 3, 4\], its corn"),
        ("detect", detected(bbox=(1.0, 9.0, 3.0, 4.0)), r"\[1\].bbox .* corners are not in order"),
        (
            "detect",
            detected(bbox=(1.0, 2.0, 66.0, 4.0)),
            r"\[1\].bbox .* beyond the image of 64x48",
        ),
        (
            "detect",
            detected(bbox=(-1.5, 2.0, 3.0, 4.0)),
            r"\[1\].bbox .* beyond the image of 64x48",
        ),
        ("detect", detected(label=7), r"\[1\].label is not a string"),
        ("track", detected(track_id=1.5), r"\[1\].track_id is not a whole number"),
        ("track", detected(track_id=np.int64(1)), r"\[1\].track_id is not a whole number"),
        ("track", detected(track_id=2**64), r"\[1\].track_id is not a whole number of 64 bits"),
        *(
            ("track", DetectResult([Detection("cat", 0.5, BOX, track_id=number)]), "of 64 bits")
            for number in (2**64, -(2**63) - 1)
        ),
        ("detect", detected(bbox=(1, 2, 10**400, 4)), r"\[1\].bbox is not four finite numbers"),
        ("detect", detected(extra=[1]), r"\[1\].extra is not a dict"),
        (
            "detect",
            detected(extra={"a": [math.nan]}),
            r"\[1\].extra holds a float that is not a JSON v",
        ),
        ("detect", detected(extra={"a": 10**40}), r"\[1\].extra holds a int that is not a JSON v"),
        ("detect", detected(extra={"a": b"b"}), r"\[1\].extra holds a bytes that is not a JSON v"),
        (
            "detect",
            detected(extra={"a": np.ones(2)}),
            r"\[1\].extra holds a numpy.ndarray that is no",
        ),
        ("detect", detected(extra={"a": {1: 2}}), r"\[1\].extra has a name that is not a string"),
        ("detect", detected(extra=ENDLESS), r"\[1\].extra is nested too deeply"),
        ("vlm", VlmResult("a", entities=[Entity("a", 1.0, {"b": math.inf})]), "attributes holds a"),
        ("segment", masked(MASK.T), r"\[0\].mask is of 48x64, not of the image's size, 64x48"),
        ("segment", masked(MASK.astype(float)), r"\[0\].mask must be a boolean array"),
        ("segment", masked([[True]]), r"\[0\].mask must be a boolean array"),
        ("segment", masked(MASK[0]), r"\[0\].mask must be a boolean array"),
        ("classify", ClassifyResult([Classification("a", 4.58)]), r"\[0\].confidence is 4.58, not"),
        ("pose", posed([(1.0, 2.0)]), r"\[0\].keypoints are not triples of finite numbers"),
        ("pose", posed([(1.0, 2.0, math.nan)]), r"\[0\].keypoints are not triples"),
        ("pose", posed([(1.0, 2.0, 3.0)]), r"\[0\].keypoints\[0\]\[2\] is 3, not within 0 to 1"),
        ("pose", posed(7), r"\[0\].keypoints are not triples of finite numbers"),
        ("ocr", OcrResult(None, []), "text is a NoneType"),
        ("ocr", OcrResult("a", [TextRegion(b"a", None, 1.0)]), r"regions\[0\].text is not a str"),
        ("vlm", VlmResult("a", entities=[Entity("a", 1.0, [])]), r"\[0\].attributes is not a dict"),
        ("ocr", OcrResult("a", [], Usage(-1, 2)), "usage must be a Usage of whole numbers"),
        ("vlm", VlmResult("a", usage=(1, 2)), "usage must be a Usage of whole numbers"),
        ("vlm", VlmResult("a", usage=Usage(1.5, 2)), "usage must be a Usage of whole numbers"),
        (
            "vlm",
            VlmResult("a", usage=Usage(1, completion_tokens=True)),
            "usage must be a Usage of whole numbers",
        ),
        ("depth", DepthResult(np.ones((2, 3))), "depth_map must be a float32 array of 2"),
        ("depth", DepthResult(np.ones(3, np.float32)), "depth_map must be a float32 array of 2"),
        ("depth", DepthResult(EMPTY), "float32 array of 2 dimensions, not empty"),
        ("depth", DepthResult([[1.0]]), "depth_map must be a float32 array of 2"),
        ("depth", DepthResult(np.float32([[1, math.nan]])), "numbers that are not finite"),
        ("depth", DepthResult(np.float32([[1, -math.inf]])), "numbers that are not finite"),
        ("depth", DepthResult(np.float32([[1, math.inf]])), "numbers that are not finite"),
        ("depth", DepthResult(np.float32([[-1, math.inf]])), "numbers that are not finite"),
        ("depth", DepthResult(np.float32([[1, -math.nan]])), "numbers that are not finite"),
        ("embed", EmbedResult(np.float32([math.inf, 1])), "embedding holds numbers that are not"),
    ],
)
def test_what_is_not_sound_is_named(task, result, words):
    """The sentence tells which field of which item is wrong, and how."""
    with pytest.raises(InvalidResultError, match=words):
        validate_result(result, task, SIZE)


def test_scores_that_were_asked_for_raw_are_served():
    """Logits are no confidences, but finite."""
    logits = ClassifyResult([Classification("a", 4.58), Classification("b", -7)])
    found = validate_result(logits, "classify", SIZE, raw=lambda: True)
    assert [each.confidence for each in found.classifications] == [4.58, -7.0]
    with pytest.raises(
        InvalidResultError, match=r"classifications\[0\].confidence is not a finite number"
    ):
        validate_result(
            ClassifyResult([Classification("a", math.inf)]), "classify", SIZE, lambda: True
        )
    with pytest.raises(InvalidResultError, match="not within 0 to 1"):
        validate_result(detected(confidence=2.0), "detect", SIZE, raw=lambda: True)


def test_without_a_size_boxes_are_ordered_and_finite():
    """A method of a model may answer about an image that the server has not seen."""
    far = detected(bbox=(-1e9, 0.0, 1e9, 1.0))
    assert validate_result(far, "detect") == far
    with pytest.raises(InvalidResultError, match="corners are not in order"):
        validate_result(detected(bbox=(3.0, 0.0, 1.0, 1.0)), "detect")


@pytest.mark.parametrize("side", range(4))
def test_each_side_of_a_box_is_within_the_image(side):
    """Up to a pixel beyond it a side is clipped; beyond that it is none of the image's."""
    whole = [0.0, 0.0, 64.0, 48.0]
    out = -1.0 if side < 2 else 1.0
    given = [each + out if at == side else each for at, each in enumerate(whole)]
    [_, clipped] = validate_result(detected(bbox=tuple(given)), "detect", SIZE).detections
    assert clipped.bbox == tuple(whole)
    given[side] += out / 8
    with pytest.raises(InvalidResultError, match="beyond the image of 64x48"):
        validate_result(detected(bbox=tuple(given)), "detect", SIZE)
