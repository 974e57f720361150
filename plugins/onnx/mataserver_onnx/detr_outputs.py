"""Reads the outputs of DETR's families: each query is an object, or nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mataserver_onnx.raw_detections import (
    MIN_CHECKED_SIDE,
    Detections,
    best_classes,
    check_logits,
    check_ordered,
    check_pixels,
    check_scores,
    end2end_rows,
    sigmoid,
    softmax,
    sorted_above,
    to_pixel_corners,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mataserver_onnx.preparation import Placement
    from mataserver_onnx.raw_detections import ReadOptions

    Array = NDArray[np.float32]


def detr(outputs: Sequence[Array], place: Placement, options: ReadOptions) -> Detections:
    """Read one class per query, the likeliest; the last class is "nothing"."""
    logits, boxes = outputs
    check_logits(logits)
    shares = softmax(logits)[:, :-1]
    labels = shares.argmax(axis=1)
    scores = shares[np.arange(len(labels)), labels]
    rows = sorted_above(scores, options.confidence)
    return Detections(to_pixel_corners(boxes[rows], place), scores[rows], labels[rows], rows)


def rt_detr(outputs: Sequence[Array], place: Placement, options: ReadOptions) -> Detections:
    """Read the best pairs of a query and a class, with independent scores."""
    logits, boxes = outputs
    check_logits(logits)
    scores = sigmoid(logits).ravel()
    pairs = sorted_above(scores, options.confidence)[: options.max_pairs or len(boxes)]
    rows, labels = np.divmod(pairs, logits.shape[1])
    return Detections(to_pixel_corners(boxes[rows], place), scores[pairs], labels, rows)


def deployed(outputs: Sequence[Array], place: Placement, options: ReadOptions) -> Detections:
    """Read a network that takes the image's size and returns final detections."""
    labels, boxes, scores = outputs
    rows = np.concatenate([boxes, scores[:, None], labels[:, None]], axis=1, dtype=np.float32)
    best, classes = end2end_rows(rows, options)
    found = boxes[best]
    if min(place.size) >= MIN_CHECKED_SIDE:
        check_pixels(found)
    check_ordered(found)
    return Detections(found, scores[best], classes, best)


def rt_detr_ultralytics(
    outputs: Sequence[Array], place: Placement, options: ReadOptions
) -> Detections:
    """Read rows of (x, y, w, h, each class), with a relative box."""
    rows = outputs[0]
    check_scores(rows[:, 4:])
    sure, best, labels = best_classes(rows[:, 4:], options)
    order = np.argsort(-best, kind="stable")
    chosen = sure[order]
    return Detections(to_pixel_corners(rows[chosen, :4], place), best[order], labels[order], chosen)


def rf_detr(outputs: Sequence[Array], place: Placement, options: ReadOptions) -> Detections:
    """Read as RT-DETR, with the boxes first."""
    return rt_detr([outputs[1], outputs[0]], place, options)
