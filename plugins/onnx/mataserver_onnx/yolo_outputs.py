"""Reads the outputs of YOLO's families: boxes by their places in grids, mostly to be dropped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mataserver_onnx import rotated
from mataserver_onnx.boxes import corners, suppress
from mataserver_onnx.raw_detections import (
    Detections,
    LayoutMismatchError,
    best_classes,
    check_ordered,
    check_pixels,
    check_scores,
    end2end_rows,
)
from mataserver_onnx.yolo import STRIDES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mataserver_onnx.preparation import Placement
    from mataserver_onnx.raw_detections import ReadOptions

    Array = NDArray[np.float32]
    Indices = NDArray[np.intp]

_MAX_LOG_SIZE = 16
"""Above the sizes of boxes as logarithms, and below those of boxes in pixels."""


def yolo_v5(outputs: Sequence[Array], place: Placement, options: ReadOptions) -> Detections:
    """Read rows of (x, y, w, h, objectness, each class's conditional probability)."""
    return _objectness_rows(outputs[0], place, options)


def _objectness_rows(rows: Array, place: Placement, options: ReadOptions) -> Detections:
    """Read rows whose score is the objectness, their fifth number, times the class's."""
    check_scores(rows[:, 4])
    likely = np.flatnonzero(rows[:, 4] >= options.confidence)
    shares = rows[likely, 5 : rows.shape[1] - options.tail]
    check_scores(shares)
    if options.objectness_only:
        shares = np.ones_like(shares)
    return _suppress_overlaps(rows[likely, :4], shares * rows[likely, 4:5], likely, place, options)


def yolox(outputs: Sequence[Array], place: Placement, options: ReadOptions) -> Detections:
    """Read as YOLOv5, with boxes in strides from their grid place, and sizes as logarithms."""
    rows = outputs[0]
    grid, steps = yolo_grid(len(rows), place.input_size)
    if np.abs(rows[:, 2:4]).max() > _MAX_LOG_SIZE:
        raise LayoutMismatchError("its boxes are decoded (yolox-decoded)")
    boxes = np.concatenate([(rows[:, :2] + grid) * steps, np.exp(rows[:, 2:4]) * steps], axis=1)
    return _objectness_rows(np.concatenate([boxes, rows[:, 4:]], axis=1), place, options)


def yolox_decoded(outputs: Sequence[Array], place: Placement, options: ReadOptions) -> Detections:
    """Read as YOLOv5."""
    rows = outputs[0]
    likely = rows[rows[:, 4] >= options.confidence, :4]
    if len(likely) and np.abs(likely).max() < _MAX_LOG_SIZE:
        raise LayoutMismatchError("its boxes are not decoded (yolox)")
    return _objectness_rows(rows, place, options)


def yolo_grid(count: int, size: tuple[int, int]) -> tuple[Array, Array]:
    """Return the place (x, y) ``[n, 2]`` and the stride ``[n, 1]`` of each of a head's answers.

    ``size`` is the input's (height, width). Raises ``LayoutMismatchError`` when no usual head has
    ``count`` of them.
    """
    for strides in STRIDES:
        sides = [(size[0] // stride, size[1] // stride) for stride in strides]
        if sum(rows * columns for rows, columns in sides) != count:
            continue
        maps = [np.indices(side, np.float32)[::-1].reshape(2, -1).T for side in sides]
        steps = [np.full((len(m), 1), s, np.float32) for m, s in zip(maps, strides, strict=True)]
        return np.concatenate(maps), np.concatenate(steps)
    raise LayoutMismatchError(
        f"an input of {size[1]}x{size[0]} pixels does not have {count} places"
    )


def yolo_v8(outputs: Sequence[Array], place: Placement, options: ReadOptions) -> Detections:
    """Read columns of (x, y, w, h, each class), followed by the numbers of masks or keypoints."""
    columns = outputs[0]
    scores = columns[4 : len(columns) - options.tail]
    check_scores(scores)
    likely = np.flatnonzero(scores.max(axis=0) >= options.confidence)
    return _suppress_overlaps(columns[:4, likely].T, scores[:, likely].T, likely, place, options)


def yolo_v8_rows(outputs: Sequence[Array], place: Placement, options: ReadOptions) -> Detections:
    """Read rows of (x, y, w, h, each class): there is no objectness before the classes."""
    return yolo_v8([outputs[0].T], place, options)


def _suppress_overlaps(
    boxes: Array, scores: Array, rows: Indices, place: Placement, options: ReadOptions
) -> Detections:
    """Assign each box its likeliest class and drop those that repeat a better one."""
    sure, best, labels = best_classes(scores, options)
    check_pixels(boxes[sure])
    turned = corners(boxes[sure])
    kept = suppress(turned, best, labels, options.overlap)
    return Detections(place.to_image(turned[kept]), best[kept], labels[kept], rows[sure[kept]])


def yolo_obb(outputs: Sequence[Array], place: Placement, options: ReadOptions) -> Detections:
    """Read columns of (x, y, w, h, each class, angle)."""
    columns = outputs[0]
    scores = columns[4:-1]
    check_scores(scores)
    likely = np.flatnonzero(scores.max(axis=0) >= options.confidence)
    sure, best, labels = best_classes(scores[:, likely].T, options)
    boxes = columns[np.r_[0:4, -1]][:, likely[sure]].T
    check_pixels(boxes[:, :4])
    kept = rotated.suppress(boxes, best, labels, options.overlap)
    return _rotated_detections(boxes[kept], best[kept], labels[kept], likely[sure[kept]], place)


def _rotated_detections(
    boxes: Array, scores: Array, labels: Indices, rows: Indices, place: Placement
) -> Detections:
    """Return boxes ``[n, 5]`` with their corners in the image, and the bounds of those."""
    points = rotated.corners(boxes)
    undone = place.to_image(np.tile(points, 2).reshape(-1, 4))[:, :2].reshape(points.shape)
    bounds = np.concatenate([undone.min(axis=1), undone.max(axis=1)], axis=1)
    return Detections(bounds, scores, labels, rows, undone)


def yolo_v10(outputs: Sequence[Array], place: Placement, options: ReadOptions) -> Detections:
    """Read rows of (x1, y1, x2, y2, score, class, ...), final except for the letterbox."""
    rows = outputs[0]
    best, labels = end2end_rows(rows, options)
    boxes = rows[best, :4]
    check_pixels(boxes)
    check_ordered(boxes)
    return Detections(place.to_image(boxes), rows[best, 4], labels, best)


def end2end_obb(outputs: Sequence[Array], place: Placement, options: ReadOptions) -> Detections:
    """Read rows of (x, y, w, h, score, class, angle), final except for the letterbox."""
    rows = outputs[0]
    best, labels = end2end_rows(rows, options)
    check_pixels(rows[best, :4])
    return _rotated_detections(rows[best][:, [0, 1, 2, 3, 6]], rows[best, 4], labels, best, place)
