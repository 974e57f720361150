"""What a model may return, and what is said of anything else."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from mataserver import (
    Classification,
    ClassifyResult,
    DepthResult,
    Detection,
    DetectResult,
    EmbedResult,
    Keypoint,
    OcrResult,
    PoseResult,
    Segment,
    SegmentResult,
    TextRegion,
    VlmResult,
)
from mataserver.results import problem

BOX = (1.0, 2.0, 3.0, 4.0)
POINTS = [(1.0, 2.0, 0.5), (3, 4, 1)]
EMPTY = np.zeros((0, 3), np.float32)


class Cat(Detection, frozen=True):
    """A struct of a plugin's own."""


def detected(**changes):
    """Return a result with a sound detection before one that is changed."""
    fields = {"label": "cat", "confidence": 0.5, "bbox": BOX} | changes
    return DetectResult([Detection("dog", 1, (0, 0, 2**60, 1)), Detection(**fields)])


def posed(points):
    """Return a result with one instance."""
    return PoseResult([Keypoint("person", 0.5, BOX, points)])


@pytest.mark.parametrize(
    ("task", "result"),
    [
        ("detect", DetectResult([])),
        ("detect", detected()),
        ("track", detected(track_id=3)),
        ("detect", detected(bbox=[0, 0, 1, 1])),
        ("detect", detected(confidence=np.float64(0.5))),
        ("detect", DetectResult([Cat("cat", 0.5, BOX)])),
        ("detect", detected(bbox=(0.0, 0.0, 1e308, 1e308))),
        ("segment", SegmentResult([Segment("cat", 0.5, BOX)])),
        ("classify", ClassifyResult([Classification("cat", 0.5)])),
        ("pose", posed(POINTS)),
        ("pose", posed([])),
        ("ocr", OcrResult("a", [TextRegion("a", None, 1.0), TextRegion("b", BOX, 1.0)])),
        ("vlm", VlmResult(text="a cat")),
        ("depth", DepthResult(np.ones((2, 3), np.float32))),
        ("depth", DepthResult(np.full((2, 3), 3e38, np.float32))),
        ("embed", EmbedResult(np.ones(3, np.float32))),
    ],
)
def test_what_is_sound_is_served(task, result):
    """Whole numbers, lists for tuples and numbers of the largest size are no mistake."""
    assert problem(result, task) is None


@pytest.mark.parametrize(
    ("task", "result", "words"),
    [
        ("detect", {"detections": []}, "expected a result struct, got dict"),
        ("depth", detected(), "does not belong to the task depth"),
        ("detect", DetectResult(()), "detections must be a list"),
        ("detect", DetectResult([{"label": "cat"}]), r"detections\[0\] is a dict"),
        ("detect", detected(confidence=math.nan), r"detections\[1\].confidence is not a finite"),
        ("detect", detected(confidence="0.5"), r"\[1\].confidence is not a finite"),
        ("detect", detected(confidence=np.float32(0.5)), r"\[1\].confidence is not a finite"),
        ("detect", detected(bbox=(1.0, 2.0, 3.0)), r"\[1\].bbox is not four finite numbers"),
        ("detect", detected(bbox=(1.0, 2.0, 3.0, math.inf)), r"\[1\].bbox is not four finite"),
        ("detect", detected(bbox=(math.inf, 2.0, 3.0, -math.inf)), r"\[1\].bbox is not four"),
        ("detect", detected(bbox=np.array(BOX, np.float32)), r"\[1\].bbox is not four finite"),
        ("detect", detected(bbox="1234"), r"\[1\].bbox is not four finite numbers"),
        ("detect", detected(label=7), r"\[1\].label is not a string"),
        ("pose", posed([(1.0, 2.0)]), r"\[0\].keypoints are not triples of finite numbers"),
        ("pose", posed([(1.0, 2.0, math.nan)]), r"\[0\].keypoints are not triples"),
        ("depth", DepthResult(np.ones((2, 3))), "depth_map must be a float32 array of 2"),
        ("depth", DepthResult(np.ones(3, np.float32)), "depth_map must be a float32 array of 2"),
        (
            "depth",
            DepthResult(EMPTY),
            "depth_map must be a float32 array of 2 dimensions, not empty",
        ),
        ("depth", DepthResult([[1.0]]), "depth_map must be a float32 array of 2"),
        ("depth", DepthResult(np.float32([[1, math.nan]])), "numbers that are not finite"),
        ("depth", DepthResult(np.float32([[1, -math.inf]])), "numbers that are not finite"),
        ("embed", EmbedResult(np.float32([math.inf, 1])), "embedding holds numbers that are not"),
    ],
)
def test_what_is_not_sound_is_named(task, result, words):
    """The log tells the plugin's author which field of which item is wrong."""
    assert re.search(words, problem(result, task) or "nothing is wrong")
