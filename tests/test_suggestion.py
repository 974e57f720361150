"""What may be meant by a name that does not exist."""

from __future__ import annotations

import time

import pytest

from mataserver import suggestion
from mataserver.results import TASKS
from mataserver.suggestion import similar, similar_task

MODELS = ["rapidocr", "opencv-faces", "PekingU/rtdetr_v2_r18vd"]


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("rapidorc", "rapidocr"),
        ("RapidOCR", "rapidocr"),
        ("opencv_faces", "opencv-faces"),
        ("rtdetr_v2_r18vd", "PekingU/rtdetr_v2_r18vd"),
        ("pekingu/rtdetr-v2-r18vd", "PekingU/rtdetr_v2_r18vd"),
        ("PekingU/rtdetr_v2_r18", "PekingU/rtdetr_v2_r18vd"),
    ],
)
def test_a_misspelt_name_is_recognised(given, meant):
    """Case, underscores, the owner and a letter or two may be wrong."""
    assert similar(given, MODELS) == f"; did you mean {meant}?"


def test_what_is_asked_again_is_not_compared_again():
    """A client that goes on asking for what is not there costs a look-up, not a comparison."""
    suggestion._closest.cache_clear()
    for _ in range(50):
        assert similar("rapidorc", MODELS) == "; did you mean rapidocr?"
    assert suggestion._closest.cache_info().misses == 1
    assert similar("rapidorc", MODELS[1:]) == ""


@pytest.mark.parametrize("given", ["", "none", "org/yolo", "rapidocr", "x" * 10_000])
def test_nothing_is_made_up(given):
    """What is like nothing, or is a name itself, has no suggestion."""
    assert similar(given, MODELS) == ""


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("object-detection", "detect"),
        ("Image Classification", "classify"),
        ("semantic_segmentation", "segment"),
        ("depth-estimation", "depth"),
        ("embedding", "embed"),
        ("trakc", "track"),
        ("orc", "ocr"),
        ("vml", "vlm"),
    ],
)
def test_tasks_in_other_words(given, meant):
    """A longer word for a task is recognised by how it begins."""
    assert similar_task(given, TASKS) == f"; did you mean {meant}?"


def test_many_names_take_little_time():
    """A client cannot make the server compare for long."""
    known = [f"org/a-model-with-a-long-name-{number:05}" for number in range(50_000)]
    begun = time.process_time()
    similar("another-model-with-a-long-name-" * 100, known)
    assert time.process_time() - begun < 1.0
