"""The answers of YOLO's families: boxes by their places in grids, most of them to be dropped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mataserver_onnx import rotated
from mataserver_onnx.answers import (
    ForeignError,
    Found,
    check_ordered,
    check_pixels,
    check_scores,
    finished,
    likeliest,
)
from mataserver_onnx.boxes import corners, suppress
from mataserver_onnx.yolo import STRIDES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mataserver_onnx.answers import Ask
    from mataserver_onnx.preparation import Placement

    Array = NDArray[np.float32]
    Indices = NDArray[np.intp]

_LARGEST_LOG = 16
"""Beyond the numbers of boxes in strides and logarithms, and within those of boxes in pixels."""


def yolo_v5(outputs: Sequence[Array], place: Placement, ask: Ask) -> Found:
    """Rows of (x, y, w, h, whether there is something, each class if there is)."""
    return _products(outputs[0], place, ask)


def _products(rows: Array, place: Placement, ask: Ask) -> Found:
    """Read rows whose score is that of "something", in their fifth place, times the class's."""
    check_scores(rows[:, 4])
    likely = np.flatnonzero(rows[:, 4] >= ask.confidence)
    shares = rows[likely, 5 : rows.shape[1] - ask.tail]
    check_scores(shares)
    return _suppressed(rows[likely, :4], shares * rows[likely, 4:5], likely, place, ask)


def yolox(outputs: Sequence[Array], place: Placement, ask: Ask) -> Found:
    """As YOLOv5, with boxes in steps of their place in the grid, and sizes as logarithms."""
    rows = outputs[0]
    grid, steps = yolo_grid(len(rows), place.input_size)
    if np.abs(rows[:, 2:4]).max() > _LARGEST_LOG:
        raise ForeignError("its boxes are decoded (yolox-decoded)")
    boxes = np.concatenate([(rows[:, :2] + grid) * steps, np.exp(rows[:, 2:4]) * steps], axis=1)
    return _products(np.concatenate([boxes, rows[:, 4:]], axis=1), place, ask)


def yolox_decoded(outputs: Sequence[Array], place: Placement, ask: Ask) -> Found:
    """As YOLOv5."""
    rows = outputs[0]
    likely = rows[rows[:, 4] >= ask.confidence, :4]
    if len(likely) and np.abs(likely).max() < _LARGEST_LOG:
        raise ForeignError("its boxes are not decoded (yolox)")
    return _products(rows, place, ask)


def yolo_grid(count: int, size: tuple[int, int]) -> tuple[Array, Array]:
    """Return the place (x, y) ``[n, 2]`` and the stride ``[n, 1]`` of each of a head's answers.

    ``size`` is the input's (height, width). Raises ``MataError`` when no usual head gives
    ``count`` of them.
    """
    for strides in STRIDES:
        sides = [(size[0] // stride, size[1] // stride) for stride in strides]
        if sum(rows * columns for rows, columns in sides) != count:
            continue
        maps = [np.indices(side, np.float32)[::-1].reshape(2, -1).T for side in sides]
        steps = [np.full((len(m), 1), s, np.float32) for m, s in zip(maps, strides, strict=True)]
        return np.concatenate(maps), np.concatenate(steps)
    raise ForeignError(f"an input of {size[1]}x{size[0]} pixels does not have {count} places")


def yolo_v8(outputs: Sequence[Array], place: Placement, ask: Ask) -> Found:
    """Columns of (x, y, w, h, each class), with what a mask or keypoints need behind."""
    columns = outputs[0]
    scores = columns[4 : len(columns) - ask.tail]
    check_scores(scores)
    likely = np.flatnonzero(scores.max(axis=0) >= ask.confidence)
    return _suppressed(columns[:4, likely].T, scores[:, likely].T, likely, place, ask)


def _suppressed(boxes: Array, scores: Array, rows: Indices, place: Placement, ask: Ask) -> Found:
    """Give each box its likeliest class and drop those that repeat a better one."""
    sure, best, labels = likeliest(scores, ask)
    check_pixels(boxes[sure])
    turned = corners(boxes[sure])
    kept = suppress(turned, best, labels, ask.overlap)
    return Found(place.undo(turned[kept]), best[kept], labels[kept], rows[sure[kept]])


def yolo_obb(outputs: Sequence[Array], place: Placement, ask: Ask) -> Found:
    """Columns of (x, y, w, h, each class, angle)."""
    columns = outputs[0]
    scores = columns[4:-1]
    check_scores(scores)
    likely = np.flatnonzero(scores.max(axis=0) >= ask.confidence)
    sure, best, labels = likeliest(scores[:, likely].T, ask)
    boxes = columns[np.r_[0:4, -1]][:, likely[sure]].T
    check_pixels(boxes[:, :4])
    kept = rotated.suppress(boxes, best, labels, ask.overlap)
    return _turned(boxes[kept], best[kept], labels[kept], likely[sure[kept]], place)


def _turned(boxes: Array, scores: Array, labels: Indices, rows: Indices, place: Placement) -> Found:
    """Return boxes ``[n, 5]`` by the corners that they have in the image, and what bounds those."""
    points = rotated.corners(boxes)
    undone = place.undo(np.tile(points, 2).reshape(-1, 4))[:, :2].reshape(points.shape)
    bounds = np.concatenate([undone.min(axis=1), undone.max(axis=1)], axis=1)
    return Found(bounds, scores, labels, rows, undone)


def yolo_v10(outputs: Sequence[Array], place: Placement, ask: Ask) -> Found:
    """Rows of (x1, y1, x2, y2, score, class, ...), finished but for the letterbox."""
    rows = outputs[0]
    best, labels = finished(rows, ask)
    boxes = rows[best, :4]
    check_pixels(boxes)
    check_ordered(boxes)
    return Found(place.undo(boxes), rows[best, 4], labels, best)


def finished_obb(outputs: Sequence[Array], place: Placement, ask: Ask) -> Found:
    """Rows of (x, y, w, h, score, class, angle), finished but for the letterbox."""
    rows = outputs[0]
    best, labels = finished(rows, ask)
    check_pixels(rows[best, :4])
    return _turned(rows[best][:, [0, 1, 2, 3, 6]], rows[best, 4], labels, best, place)
