"""What detectors say: each layout's outputs as boxes, scores and classes of one image."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mataserver_onnx.boxes import corners, suppress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from mataserver_onnx.options import LayoutName
    from mataserver_onnx.preparation import Placement

    Array = NDArray[np.float32]
    Indices = NDArray[np.intp]


class Found(NamedTuple):
    """Detections of one image, best first.

    boxes:  ``[n, 4]`` in the image's pixels, not cut to it.
    scores: ``[n]``, 0 to 1. labels: ``[n]``, numbers of classes.
    rows:   ``[n]``, where each stood among the network's answers.
    """

    boxes: Array
    scores: Array
    labels: Indices
    rows: Indices


class Ask(NamedTuple):
    """What is asked for.

    confidence: the lowest score.
    overlap:    from which on two boxes are one object.
    most:       how many pairs of a query and a class are read; None is one per query.
    """

    confidence: float
    overlap: float
    most: int | None = None


def read(layout: LayoutName, outputs: Sequence[Array], place: Placement, ask: Ask) -> Found:
    """Read one image's outputs in the way of ``layout``."""
    return _READERS[layout](outputs, place, ask)


def sigmoid(values: Array) -> Array:
    """Return 1 / (1 + exp(-x)) without overflow."""
    small = np.exp(-np.abs(values))
    result: Array = np.where(values >= 0, 1, small) / (1 + small)
    return result


def softmax(values: Array, axis: int = -1) -> Array:
    """Return the softmax along an axis."""
    powers = np.exp(values - values.max(axis=axis, keepdims=True))
    result: Array = powers / powers.sum(axis=axis, keepdims=True)
    return result


def _detr(outputs: Sequence[Array], place: Placement, ask: Ask) -> Found:
    """Each query is its likeliest class; the last class is "nothing"."""
    logits, boxes = outputs
    shares = softmax(logits)[:, :-1]
    labels = shares.argmax(axis=1)
    scores = shares[np.arange(len(labels)), labels]
    rows = _best(scores, ask.confidence)
    return Found(_scaled(boxes[rows], place), scores[rows], labels[rows], rows)


def _rt_detr(outputs: Sequence[Array], place: Placement, ask: Ask) -> Found:
    """The best pairs of a query and a class, each scored for itself."""
    logits, boxes = outputs
    scores = sigmoid(logits).ravel()
    pairs = _best(scores, ask.confidence)[: ask.most or len(boxes)]
    rows, labels = np.divmod(pairs, logits.shape[1])
    return Found(_scaled(boxes[rows], place), scores[pairs], labels, rows)


def _deployed(outputs: Sequence[Array], _place: Placement, ask: Ask) -> Found:
    """The network was told the image's size and has done the rest."""
    labels, boxes, scores = outputs
    rows = _best(scores, ask.confidence)
    return Found(boxes[rows], scores[rows], labels[rows].astype(np.intp), rows)


def _yolo_v5(outputs: Sequence[Array], place: Placement, ask: Ask) -> Found:
    """Rows of (x, y, w, h, whether there is something, each class if there is)."""
    rows = outputs[0]
    likely = np.flatnonzero(rows[:, 4] >= ask.confidence)
    scores = rows[likely, 5:] * rows[likely, 4:5]
    return _suppressed(rows[likely, :4], scores, likely, place, ask)


def _yolo_v8(outputs: Sequence[Array], place: Placement, ask: Ask) -> Found:
    """Columns of (x, y, w, h, each class)."""
    columns = outputs[0]
    return _classes_first(columns, columns[4:], place, ask)


def _classes_first(columns: Array, scores: Array, place: Placement, ask: Ask) -> Found:
    likely = np.flatnonzero(scores.max(axis=0) >= ask.confidence)
    return _suppressed(columns[:4, likely].T, scores[:, likely].T, likely, place, ask)


def _suppressed(boxes: Array, scores: Array, rows: Indices, place: Placement, ask: Ask) -> Found:
    """Give each box its likeliest class and drop those that repeat a better one."""
    labels = scores.argmax(axis=1) if len(rows) else np.empty(0, np.intp)
    best = scores[np.arange(len(labels)), labels]
    sure = np.flatnonzero(best >= ask.confidence)
    turned = corners(boxes[sure])
    kept = suppress(turned, best[sure], labels[sure], ask.overlap)
    chosen = sure[kept]
    return Found(place.undo(turned[kept]), best[chosen], labels[chosen], rows[chosen])


def _yolo_v10(outputs: Sequence[Array], place: Placement, ask: Ask) -> Found:
    """Rows of (x1, y1, x2, y2, score, class), finished but for the letterbox."""
    rows = outputs[0]
    best = _best(rows[:, 4], ask.confidence)
    labels = rows[best, 5].astype(np.intp)
    return Found(place.undo(rows[best, :4]), rows[best, 4], labels, best)


def _yolo_seg(outputs: Sequence[Array], place: Placement, ask: Ask) -> Found:
    """As YOLOv8, with a share of each prototype of masks after the classes."""
    columns, prototypes = outputs
    return _classes_first(columns, columns[4 : -len(prototypes)], place, ask)


def _best(scores: Array, confidence: float) -> Indices:
    """Return the places of the scores that suffice, best first."""
    likely = np.flatnonzero(scores >= confidence)
    return likely[np.argsort(-scores[likely], kind="stable")]


def _scaled(boxes: Array, place: Placement) -> Array:
    """Turn (middle x, middle y, width, height) in parts of the image into corners in pixels."""
    height, width = place.size
    scaled: Array = corners(boxes) * np.array([width, height] * 2, np.float32)
    return scaled


_READERS: dict[str, Callable[[Sequence[Array], Placement, Ask], Found]] = {
    "detr": _detr,
    "rt-detr": _rt_detr,
    "rt-detr-deploy": _deployed,
    "yolo-v5": _yolo_v5,
    "yolo-v8": _yolo_v8,
    "yolo-v10": _yolo_v10,
    "yolo-seg": _yolo_seg,
}
