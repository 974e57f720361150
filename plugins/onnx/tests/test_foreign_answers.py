"""Numbers that a layout cannot have are an error, whatever the network's shapes say."""

from __future__ import annotations

import numpy as np
import pytest

from mataserver import MataError
from mataserver_onnx import detections
from mataserver_onnx.labels import Labels
from mataserver_onnx.pose import within_rounding
from mataserver_onnx.preparation import Placement
from mataserver_onnx.raw_detections import ReadOptions

PLACE = Placement((64, 96), (64, 96), 1.0, 1.0)
ASK = ReadOptions(0.3, 0.7)
PARTS, PIXELS = [0.5, 0.5, 0.4, 0.5], [48.0, 32.0, 38.0, 32.0]
CORNERS = [29.0, 16.0, 67.0, 48.0]
PROBABILITIES, LOGITS = [0.05, 0.9, 0.05], [-5.0, 3.0, -5.0]


def rows(*numbers):
    """One sure answer among others of nothing."""
    return np.array([[*numbers], [0.0] * len(numbers)], np.float32)


def queries(scores, box):
    """Scores and boxes of two queries, the second of nothing."""
    nothing = [min(scores)] * len(scores)
    return [np.array([scores, nothing], np.float32), np.array([box, box], np.float32)]


def deployed(box, score=0.9, label=1.0):
    """Labels, boxes and scores of two finished answers, the second of nothing."""
    given = rows(*box, score, label)
    return [given[:, 5], given[:, :4], given[:, 4]]


def read(layout, outputs):
    """Read outputs as those of a layout."""
    return detections.read(layout, outputs, PLACE, ASK)


@pytest.mark.parametrize(
    ("layout", "outputs", "said"),
    [
        ("yolo-v5", [rows(*PARTS, 0.9, *PROBABILITIES)], "its boxes are fractions of the image"),
        ("yolo-v6", [rows(*PARTS, 0.9, *PROBABILITIES)], "its boxes are fractions of the image"),
        ("yolo-v8", [rows(*PARTS, *PROBABILITIES).T], "its boxes are fractions of the image"),
        ("yolo-obb", [rows(*PARTS, *PROBABILITIES, 0.2).T], "its boxes are fractions of the image"),
        ("yolo-v10", [rows(0.1, 0.1, 0.9, 0.9, 0.9, 1)], "its boxes are fractions of the image"),
        ("yolo-v26-obb", [rows(*PARTS, 0.9, 1, 0.2)], "its boxes are fractions of the image"),
        ("yolo-v10", [rows(*PIXELS, 0.9, 1)], "its boxes end before they begin"),
        ("yolo-v10", [rows(5, 5, 60, 60, 0.9, -1)], "a class number is below 0"),
        ("rt-detr-deploy", deployed(PARTS), "its boxes are fractions of the image"),
        ("rt-detr-deploy", deployed(PIXELS), "its boxes end before they begin"),
        ("rt-detr-deploy", deployed(CORNERS, score=33), "its scores go from 0 to 33"),
        ("rt-detr-deploy", deployed(CORNERS, score=-2), "its scores go from -2 to 0"),
        ("rt-detr-deploy", deployed(CORNERS, label=1.5), "a class number is not a whole number"),
        ("rt-detr-deploy", deployed(CORNERS, label=-1), "a class number is below 0"),
        ("detr", queries(LOGITS, PIXELS), "its boxes are not fractions of the image"),
        ("rt-detr", queries(LOGITS, PIXELS), "its boxes are not fractions of the image"),
        ("rf-detr", queries(LOGITS, PIXELS)[::-1], "its boxes are not fractions of the image"),
        ("detr", queries(PROBABILITIES, PARTS), "its scores are probabilities already"),
        ("rt-detr", queries(PROBABILITIES, PARTS), "its scores are probabilities already"),
        ("rf-detr", queries(PROBABILITIES, PARTS)[::-1], "its scores are probabilities already"),
    ],
)
def test_numbers_of_another_layout_are_an_error(layout, outputs, said):
    """Boxes in the wrong unit or form, and scores of the wrong kind, are no answers."""
    with pytest.raises(MataError, match=f"not those of {layout}: .*{said}; state the layout"):
        read(layout, outputs)


@pytest.mark.parametrize(
    ("layout", "outputs"),
    [
        ("yolo-v5", [rows(*PIXELS, 0.9, *PROBABILITIES)]),
        ("yolo-v8", [rows(*PIXELS, *PROBABILITIES).T]),
        ("yolo-v8-rows", [rows(*PIXELS, *PROBABILITIES)]),
        ("yolo-obb", [rows(*PIXELS, *PROBABILITIES, 0.0).T]),
        ("yolo-v10", [rows(29, 16, 67, 48, 0.9, 1)]),
        ("rt-detr-deploy", deployed(CORNERS)),
        ("rt-detr", queries(LOGITS, [48 / 96, 32 / 64, 38 / 96, 32 / 64])),
    ],
)
def test_its_own_numbers_are_read(layout, outputs):
    """The same box, said as the layout says it."""
    found = read(layout, outputs)
    assert found.labels.tolist() == [1]
    assert found.boxes.tolist() == [pytest.approx([29, 16, 67, 48], abs=1e-4)]


@pytest.mark.parametrize("label", [1.992, 2.0, 2.008])
def test_a_class_number_is_rounded(label):
    """In 8 or 16 bits the class 2 may be a little less, which is not the class 1."""
    for layout, outputs in (
        ("yolo-v10", [rows(*CORNERS, 0.9, label)]),
        ("yolo-v26-obb", [rows(*PIXELS, 0.9, label, 0.2)]),
        ("rt-detr-deploy", deployed(CORNERS, label=label)),
    ):
        assert read(layout, outputs).labels.tolist() == [2]


@pytest.mark.parametrize("label", [0.0, -1.0])
def test_rows_that_fill_up_the_answer_are_no_detections(label):
    """A network that gives a fixed number of rows ends with empty ones, whatever is asked for."""
    answers = np.array([[*CORNERS, 0.9, 1], *[[0, 0, 0, 0, 0, label]] * 5], np.float32)
    found = detections.read("yolo-v10", [answers], PLACE, ReadOptions(0.0, 0.7))
    assert found.labels.tolist() == [1]


def test_a_single_box_that_ends_before_it_begins_is_left_out():
    """An unsure answer among good ones costs nobody theirs."""
    good = [[5, 5, 60, 60, 0.9, 1], [10, 10, 40, 40, 0.8, 0]]
    found = read("yolo-v10", [np.array([*good, [50, 50, 40, 60, 0.4, 1]], np.float32)])
    assert found.labels.tolist() == [1, 0]


def test_a_class_far_beyond_the_names_is_an_error():
    """Names of another network are not passed over with a made-up one."""
    labels = Labels({0: "cat", 1: "dog"})
    assert (labels[1], labels[2], Labels({})[77]) == ("dog", "LABEL_2", "LABEL_77")
    with pytest.raises(MataError, match="found the class 77, but 2 labels are given"):
        labels[77]


def test_the_confidence_of_a_keypoint_is_not_cut_to_one():
    """A logit in its place is left for the server to refuse; what rounding added is taken off."""
    assert [within_rounding(each) for each in (-0.01, 0.5, 1.01)] == [0, 0.5, 1]
    assert [within_rounding(each) for each in (-3.0, 4.0)] == [-3, 4]
