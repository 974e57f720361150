"""The answers of DETR's families: each query is an object, or nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mataserver_onnx.answers import (
    LEAST_SIDE,
    Found,
    best_of,
    check_logits,
    check_ordered,
    check_pixels,
    check_scores,
    finished,
    in_pixels,
    likeliest,
    sigmoid,
    softmax,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mataserver_onnx.answers import Ask
    from mataserver_onnx.preparation import Placement

    Array = NDArray[np.float32]


def detr(outputs: Sequence[Array], place: Placement, ask: Ask) -> Found:
    """Each query is its likeliest class; the last class is "nothing"."""
    logits, boxes = outputs
    check_logits(logits)
    shares = softmax(logits)[:, :-1]
    labels = shares.argmax(axis=1)
    scores = shares[np.arange(len(labels)), labels]
    rows = best_of(scores, ask.confidence)
    return Found(in_pixels(boxes[rows], place), scores[rows], labels[rows], rows)


def rt_detr(outputs: Sequence[Array], place: Placement, ask: Ask) -> Found:
    """The best pairs of a query and a class, each scored for itself."""
    logits, boxes = outputs
    check_logits(logits)
    scores = sigmoid(logits).ravel()
    pairs = best_of(scores, ask.confidence)[: ask.most or len(boxes)]
    rows, labels = np.divmod(pairs, logits.shape[1])
    return Found(in_pixels(boxes[rows], place), scores[pairs], labels, rows)


def deployed(outputs: Sequence[Array], place: Placement, ask: Ask) -> Found:
    """The network was told the image's size and has done the rest."""
    labels, boxes, scores = outputs
    rows = np.concatenate([boxes, scores[:, None], labels[:, None]], axis=1, dtype=np.float32)
    best, classes = finished(rows, ask)
    found = boxes[best]
    if min(place.size) >= LEAST_SIDE:
        check_pixels(found)
    check_ordered(found)
    return Found(found, scores[best], classes, best)


def rt_detr_ultralytics(outputs: Sequence[Array], place: Placement, ask: Ask) -> Found:
    """Rows of (x, y, w, h, each class), the box in parts of the picture."""
    rows = outputs[0]
    check_scores(rows[:, 4:])
    sure, best, labels = likeliest(rows[:, 4:], ask)
    order = np.argsort(-best, kind="stable")
    chosen = sure[order]
    return Found(in_pixels(rows[chosen, :4], place), best[order], labels[order], chosen)


def rf_detr(outputs: Sequence[Array], place: Placement, ask: Ask) -> Found:
    """As RT-DETR, the boxes first."""
    return rt_detr([outputs[1], outputs[0]], place, ask)
