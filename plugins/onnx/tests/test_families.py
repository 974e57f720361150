"""Every family of the table: its exports are recognised, and find what was planted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import mataserver_onnx
from mataserver import MataError
from mataserver_onnx import graph, layouts, rotated
from mataserver_onnx.families import FAMILIES
from mataserver_onnx.options import ModelOptions

PARAMS = {backend.task: backend.params for backend in mataserver_onnx.backends()}
EXPORTS = [(family, layout) for family in FAMILIES for layout in family.layouts]
# Pictures that a letterbox halves or leaves as they are, so that edges stay where they are; for
# networks that stretch, one whose height alone is halved.
LETTERBOXED = [
    ((128, 160), (32, 16, 48, 120)),
    ((64, 30), (6, 8, 28, 60)),
    ((40, 96), (8, 4, 96, 24)),
]
STRETCHED = [((128, 96), (20, 16, 68, 120)), ((64, 192), (40, 8, 120, 48))]


@pytest.fixture(params=EXPORTS, ids=lambda each: f"{each[0].name} as {each[1]}")
def export(request, planted, exports, tmp_path):
    """A family, a layout, and the file of a network of both."""
    family, layout = request.param
    return family, layout, exports.network(planted, tmp_path / "model.onnx", family, layout)


def options(family, layout):
    return {"layout": layout} if family.stated else {}


def test_its_file_says_what_it_is(export):
    """The layout follows from the file; where it does not, the layouts to state are named."""
    family, layout, path = export
    task = layouts.TASKS[layout]
    found = graph.read(path)
    if not family.stated:
        assert layouts.candidates(found, {}) == {layout}
        assert layouts.serves(found, {}, task, ModelOptions())
        return
    with pytest.raises(MataError, match=rf"may be those of .*{layout}.*; state the layout"):
        layouts.serves(found, {}, task, ModelOptions())
    assert layouts.choose(found, {}, task, ModelOptions(layout=layout)) == layout


def test_it_finds_what_was_planted(export, load, picture):
    """Boxes, masks, keypoints and turned boxes lie in the picture's own pixels."""
    family, layout, path = export
    task = layouts.TASKS[layout]
    model = load(path, task, **options(family, layout))
    pictures = STRETCHED if layouts.LAYOUTS[layout].resize == "stretch" else LETTERBOXED
    images = [picture(*size, box) for size, box in pictures]
    results = model.predict(images, [PARAMS[task]()] * len(images))
    for result, (size, box) in zip(results, pictures, strict=True):
        check(task, layout, result, size, box)
    [empty] = model.predict([picture(64, 96)], [PARAMS[task]()])
    assert not any(getattr(empty, name) for name in empty.__struct_fields__)


def check(task, layout, result, size, box):
    """Whether a result is the rectangle ``box`` in a picture of a (height, width)."""
    [found] = getattr(
        result, {"detect": "detections", "segment": "segments"}.get(task, "keypoints")
    )
    assert found.label in {"crate", "LABEL_1"}
    assert found.confidence == pytest.approx(0.9, abs=1e-5)
    if task == "segment":
        expected = np.zeros(size, bool)
        expected[box[1] : box[3], box[0] : box[2]] = True
        assert (found.mask & expected).sum() / (found.mask | expected).sum() > 0.9
        return
    if layout.endswith("obb"):
        check_turned(found, size, box)
        return
    assert found.bbox == pytest.approx(box, abs=1e-3)
    if task == "pose":
        check_pose(found, box)


def check_turned(found, size, box):
    x1, y1, x2, y2 = box
    given = np.array([[(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, 0.3]], np.float32)
    [corners] = rotated.corners(given)
    assert np.array(found.extra["corners"]) == pytest.approx(corners, abs=0.01)
    low, high = corners.min(axis=0), corners.max(axis=0)
    spanned = [*np.clip(low, 0, size[::-1]), *np.clip(high, 0, size[::-1])]
    assert found.bbox == pytest.approx(spanned, abs=0.01)
    assert json.dumps(found.extra)


def check_pose(found, box):
    x1, y1, x2, y2 = box
    assert len(found.keypoints) == 17
    expected = [(x1, y1), (x2, y1), ((x1 + x2) / 2, (y1 + y2) / 2), (x1, y2), (x2, y2)]
    for (x, y, sure), point in zip(found.keypoints, expected, strict=False):
        assert (x, y) == pytest.approx(point, abs=1e-3)
        assert sure == pytest.approx(0.8, abs=1e-5)


def test_the_table_of_the_docs_is_that_of_the_code():
    """``docs/models.md`` lists the families with their layouts, licences and checkpoints."""
    page = (Path(__file__).parents[3] / "docs" / "models.md").read_text()
    table = page.split("## ONNX files", 1)[1].split("| family |", 1)[1].split("\n\n", 1)[0]
    rows = [line.strip("|").split("|") for line in table.splitlines()[2:]]
    told = [tuple(cell.strip() for cell in row) for row in rows]
    assert told == [
        (
            family.name,
            layouts.TASKS[family.layouts[0]],
            " or ".join(f"`{name}`" for name in family.layouts) + (", stated" * family.stated),
            family.licence,
            f"`{family.checkpoint}`",
        )
        for family in FAMILIES
    ]


def test_every_layout_of_boxes_has_a_family():
    """What is read is what somebody publishes."""
    listed = {layout for family in FAMILIES for layout in family.layouts}
    others = {"detr", "rt-detr", "classes", "semantic", "depth", "vector"}  # of transformers
    others.add("yolo-v8-rows")  # of whoever transposes YOLOv8: test_yolo plants it
    assert listed == set(layouts.TASKS) - others


def overlapping(angle, shift):
    """Two boxes of a class, the second turned and moved."""
    return np.array([[50, 50, 40, 10, 0], [50 + shift, 50, 40, 10, angle]], np.float32)


@pytest.mark.parametrize(
    ("boxes", "kept"),
    [
        (overlapping(0.0, 1), [0]),
        (overlapping(np.pi, 1), [0]),
        (overlapping(np.pi / 2, 0), [0, 1]),
        (overlapping(0.0, 60), [0, 1]),
    ],
)
def test_turned_boxes_that_repeat_each_other(boxes, kept):
    """Alike in place, size and direction is a repetition; across, or apart, is another object."""
    scores, labels = np.array([0.9, 0.8], np.float32), np.array([0, 0])
    assert rotated.suppress(boxes, scores, labels, 0.7).tolist() == kept
    assert rotated.suppress(boxes, scores, np.array([0, 1]), 0.7).tolist() == [0, 1]


@pytest.fixture
def foreign(planted, exports, tmp_path):
    """``foreign(layout)`` is a network of a layout, without notes."""

    def make(layout):
        family = next(each for each in FAMILIES if layout in each.layouts)
        path = exports.network(planted, tmp_path / "model.onnx", family, layout)
        model = onnx.load(path)
        del model.metadata_props[:]
        onnx.save(model, path)
        return path

    return make


@pytest.mark.parametrize(
    ("layout", "stated", "said"),
    [
        ("yolox-decoded", "yolox", r"its boxes are decoded \(yolox-decoded\)"),
        ("yolox", "yolox-decoded", r"its boxes are not decoded \(yolox\)"),
        ("yolo-pose", "yolo-v8", r"its scores go from 0 to \d\d"),
        ("rt-detr-ultralytics", "yolo-v10", "a class number is not a whole number"),
        ("yolo-v10", "rt-detr-ultralytics", "its boxes are not fractions of the image"),
    ],
)
def test_answers_of_another_layout_are_an_error(layout, stated, said, foreign, load, picture):
    """A wrong statement does not become a wrong answer: numbers tell that they are others."""
    loaded = load(foreign(layout), "detect", layout=stated)
    with pytest.raises(MataError, match=f"not those of {stated}: {said}; state the layout"):
        loaded.predict([picture(128, 160, (32, 16, 48, 120))], [PARAMS["detect"]()])
