"""What detectors say: each layout's outputs as boxes, scores and classes of one image."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mataserver import MataError
from mataserver_onnx import rotated
from mataserver_onnx.boxes import corners, suppress
from mataserver_onnx.yolo import STRIDES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from mataserver_onnx.options import LayoutName
    from mataserver_onnx.preparation import Placement

    Array = NDArray[np.float32]
    Indices = NDArray[np.intp]


ROUNDING = 1 / 64
"""By how much a score in 8 or 16 bits may leave 0 to 1."""
_IN_PARTS = 1.5
"""No box in pixels lies so near the picture's corner as a whole, and no part is so large."""
_LEAST_SIDE = 32
"""A smaller picture's own pixels may look like parts."""
_LARGEST_LOG = 16
"""Beyond the numbers of boxes in strides and logarithms, and within those of boxes in pixels."""


class Found(NamedTuple):
    """Detections of one image, best first.

    boxes:  ``[n, 4]`` in the image's pixels, not cut to it.
    scores: ``[n]``, 0 to 1. labels: ``[n]``, numbers of classes.
    rows:   ``[n]``, where each stood among the network's answers.
    turned: ``[n, 4, 2]``, the corners of boxes that are not upright, one after the other around
            each; None where all are.
    """

    boxes: Array
    scores: Array
    labels: Indices
    rows: Indices
    turned: Array | None = None

    def ordered(self) -> Found:
        """Return it without boxes that end before they begin, as unsure answers may."""
        sound = (self.boxes[:, 2] >= self.boxes[:, 0]) & (self.boxes[:, 3] >= self.boxes[:, 1])
        if sound.all():
            return self
        turned = None if self.turned is None else self.turned[sound]
        return Found(
            self.boxes[sound], self.scores[sound], self.labels[sound], self.rows[sound], turned
        )


class Ask(NamedTuple):
    """What is asked for.

    confidence: the lowest score.
    overlap:    from which on two boxes are one object.
    most:       how many pairs of a query and a class are read; None is one per query.
    tail:       how many numbers of an answer tell of its mask or keypoints.
    """

    confidence: float
    overlap: float
    most: int | None = None
    tail: int = 0


class _ForeignError(ValueError):
    """Numbers that a layout cannot have."""


def read(layout: LayoutName, outputs: Sequence[Array], place: Placement, ask: Ask) -> Found:
    """Read one image's outputs in the way of ``layout``.

    Raises ``MataError`` for numbers that those of that layout cannot be.
    """
    try:
        found = _READERS[layout](outputs, place, ask)
    except _ForeignError as error:
        raise MataError(
            f"the network's answers are not those of {layout}: {error}; state the layout under "
            "plugins.onnx.models"
        ) from None
    return found._replace(scores=found.scores.clip(0, 1)).ordered()


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
    _check_logits(logits)
    shares = softmax(logits)[:, :-1]
    labels = shares.argmax(axis=1)
    scores = shares[np.arange(len(labels)), labels]
    rows = _best(scores, ask.confidence)
    return Found(_scaled(boxes[rows], place), scores[rows], labels[rows], rows)


def _rt_detr(outputs: Sequence[Array], place: Placement, ask: Ask) -> Found:
    """The best pairs of a query and a class, each scored for itself."""
    logits, boxes = outputs
    _check_logits(logits)
    scores = sigmoid(logits).ravel()
    pairs = _best(scores, ask.confidence)[: ask.most or len(boxes)]
    rows, labels = np.divmod(pairs, logits.shape[1])
    return Found(_scaled(boxes[rows], place), scores[pairs], labels, rows)


def _deployed(outputs: Sequence[Array], place: Placement, ask: Ask) -> Found:
    """The network was told the image's size and has done the rest."""
    labels, boxes, scores = outputs
    rows = np.concatenate([boxes, scores[:, None], labels[:, None]], axis=1, dtype=np.float32)
    best, classes = _finished(rows, ask)
    found = boxes[best]
    if min(place.size) >= _LEAST_SIDE:
        _check_pixels(found)
    _check_ordered(found)
    return Found(found, scores[best], classes, best)


def _yolo_v5(outputs: Sequence[Array], place: Placement, ask: Ask) -> Found:
    """Rows of (x, y, w, h, whether there is something, each class if there is)."""
    return _products(outputs[0], place, ask)


def _products(rows: Array, place: Placement, ask: Ask) -> Found:
    """Read rows whose score is that of "something", in their fifth place, times the class's."""
    _check_scores(rows[:, 4])
    likely = np.flatnonzero(rows[:, 4] >= ask.confidence)
    shares = rows[likely, 5 : rows.shape[1] - ask.tail]
    _check_scores(shares)
    return _suppressed(rows[likely, :4], shares * rows[likely, 4:5], likely, place, ask)


def _yolox(outputs: Sequence[Array], place: Placement, ask: Ask) -> Found:
    """As YOLOv5, with boxes in steps of their place in the grid, and sizes as logarithms."""
    rows = outputs[0]
    grid, steps = yolo_grid(len(rows), place.input_size)
    if np.abs(rows[:, 2:4]).max() > _LARGEST_LOG:
        raise _ForeignError("its boxes are decoded (yolox-decoded)")
    boxes = np.concatenate([(rows[:, :2] + grid) * steps, np.exp(rows[:, 2:4]) * steps], axis=1)
    return _products(np.concatenate([boxes, rows[:, 4:]], axis=1), place, ask)


def _yolox_decoded(outputs: Sequence[Array], place: Placement, ask: Ask) -> Found:
    """As YOLOv5."""
    rows = outputs[0]
    likely = rows[rows[:, 4] >= ask.confidence, :4]
    if len(likely) and np.abs(likely).max() < _LARGEST_LOG:
        raise _ForeignError("its boxes are not decoded (yolox)")
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
    raise _ForeignError(f"an input of {size[1]}x{size[0]} pixels does not have {count} places")


def _yolo_v8(outputs: Sequence[Array], place: Placement, ask: Ask) -> Found:
    """Columns of (x, y, w, h, each class), with what a mask or keypoints need behind."""
    columns = outputs[0]
    scores = columns[4 : len(columns) - ask.tail]
    _check_scores(scores)
    likely = np.flatnonzero(scores.max(axis=0) >= ask.confidence)
    return _suppressed(columns[:4, likely].T, scores[:, likely].T, likely, place, ask)


def _suppressed(boxes: Array, scores: Array, rows: Indices, place: Placement, ask: Ask) -> Found:
    """Give each box its likeliest class and drop those that repeat a better one."""
    sure, best, labels = _likeliest(scores, ask)
    _check_pixels(boxes[sure])
    turned = corners(boxes[sure])
    kept = suppress(turned, best, labels, ask.overlap)
    return Found(place.undo(turned[kept]), best[kept], labels[kept], rows[sure[kept]])


def _likeliest(scores: Array, ask: Ask) -> tuple[Indices, Array, Indices]:
    """Return which of the rows ``[n, C]`` suffice, the best score of each, and its class."""
    labels = scores.argmax(axis=1) if len(scores) else np.empty(0, np.intp)
    best = scores[np.arange(len(labels)), labels]
    sure = np.flatnonzero(best >= ask.confidence)
    return sure, best[sure], labels[sure]


def _yolo_obb(outputs: Sequence[Array], place: Placement, ask: Ask) -> Found:
    """Columns of (x, y, w, h, each class, angle)."""
    columns = outputs[0]
    scores = columns[4:-1]
    _check_scores(scores)
    likely = np.flatnonzero(scores.max(axis=0) >= ask.confidence)
    sure, best, labels = _likeliest(scores[:, likely].T, ask)
    boxes = columns[np.r_[0:4, -1]][:, likely[sure]].T
    _check_pixels(boxes[:, :4])
    kept = rotated.suppress(boxes, best, labels, ask.overlap)
    return _turned(boxes[kept], best[kept], labels[kept], likely[sure[kept]], place)


def _turned(boxes: Array, scores: Array, labels: Indices, rows: Indices, place: Placement) -> Found:
    """Return boxes ``[n, 5]`` by the corners that they have in the image, and what bounds those."""
    points = rotated.corners(boxes)
    undone = place.undo(np.tile(points, 2).reshape(-1, 4))[:, :2].reshape(points.shape)
    bounds = np.concatenate([undone.min(axis=1), undone.max(axis=1)], axis=1)
    return Found(bounds, scores, labels, rows, undone)


def _yolo_v10(outputs: Sequence[Array], place: Placement, ask: Ask) -> Found:
    """Rows of (x1, y1, x2, y2, score, class, ...), finished but for the letterbox."""
    rows = outputs[0]
    best, labels = _finished(rows, ask)
    boxes = rows[best, :4]
    _check_pixels(boxes)
    _check_ordered(boxes)
    return Found(place.undo(boxes), rows[best, 4], labels, best)


def _finished(rows: Array, ask: Ask) -> tuple[Indices, Indices]:
    """Return which of the network's finished rows suffice, best first, and their classes."""
    _check_scores(rows[:, 4])
    if (np.abs(rows[:, 5] - np.rint(rows[:, 5])) > ROUNDING).any():
        raise _ForeignError("what should be the number of a class is none")
    best = _best(rows[:, 4], ask.confidence)
    if (rows[best, 5] < 0).any():
        raise _ForeignError("what should be the number of a class is below 0")
    return best, rows[best, 5].astype(np.intp)


def _check_pixels(boxes: Array) -> None:
    """Raise ``_ForeignError`` for boxes in parts of a picture where they should be in pixels."""
    if len(boxes) and 0 < np.abs(boxes).max() <= _IN_PARTS:
        raise _ForeignError("its boxes are parts of a picture")


def _check_ordered(boxes: Array) -> None:
    """Raise ``_ForeignError`` for boxes most of which end before they begin."""
    backwards = (boxes[:, 2:] < boxes[:, :2]).any(axis=1)
    if backwards.sum() * 2 > len(boxes):  # a single one is an unsure answer
        raise _ForeignError("its boxes end before they begin")


def _finished_obb(outputs: Sequence[Array], place: Placement, ask: Ask) -> Found:
    """Rows of (x, y, w, h, score, class, angle), finished but for the letterbox."""
    rows = outputs[0]
    best, labels = _finished(rows, ask)
    _check_pixels(rows[best, :4])
    return _turned(rows[best][:, [0, 1, 2, 3, 6]], rows[best, 4], labels, best, place)


def _rt_detr_ultralytics(outputs: Sequence[Array], place: Placement, ask: Ask) -> Found:
    """Rows of (x, y, w, h, each class), the box in parts of the picture."""
    rows = outputs[0]
    _check_scores(rows[:, 4:])
    sure, best, labels = _likeliest(rows[:, 4:], ask)
    order = np.argsort(-best, kind="stable")
    chosen = sure[order]
    return Found(_scaled(rows[chosen, :4], place), best[order], labels[order], chosen)


def _rf_detr(outputs: Sequence[Array], place: Placement, ask: Ask) -> Found:
    """As RT-DETR, the boxes first."""
    return _rt_detr([outputs[1], outputs[0]], place, ask)


def _check_logits(logits: Array) -> None:
    """Raise ``_ForeignError`` for probabilities: most of the logits of queries are below 0."""
    if logits.size and logits.min() >= 0 and logits.max() <= 1:
        raise _ForeignError("its scores are probabilities already")


def _check_scores(scores: Array) -> None:
    """Raise ``_ForeignError`` unless numbers lie between 0 and 1, but for rounding."""
    if not scores.size:
        return
    low, high = float(scores.min()), float(scores.max())
    if low < -ROUNDING or high > 1 + ROUNDING:
        raise _ForeignError(f"its scores go from {low:.4g} to {high:.4g}")


def _best(scores: Array, confidence: float) -> Indices:
    """Return the places of the scores that suffice, best first."""
    likely = np.flatnonzero(scores >= confidence)
    return likely[np.argsort(-scores[likely], kind="stable")]


def _scaled(boxes: Array, place: Placement) -> Array:
    """Turn (middle x, middle y, width, height) in parts of the image into corners in pixels.

    Raises ``_ForeignError`` for what is in pixels already.
    """
    if len(boxes) and np.abs(boxes).max() > _IN_PARTS:
        raise _ForeignError("its boxes are no parts of a picture")
    height, width = place.size
    scaled: Array = corners(boxes) * np.array([width, height] * 2, np.float32)
    return scaled


_READERS: dict[str, Callable[[Sequence[Array], Placement, Ask], Found]] = {
    "detr": _detr,
    "rt-detr": _rt_detr,
    "rt-detr-deploy": _deployed,
    "rt-detr-ultralytics": _rt_detr_ultralytics,
    "rf-detr": _rf_detr,
    "rf-detr-seg": _rf_detr,
    "yolo-v5": _yolo_v5,
    "yolo-v5-seg": _yolo_v5,
    "yolo-v6": _yolo_v5,
    "yolo-v8": _yolo_v8,
    "yolo-seg": _yolo_v8,
    "yolo-pose": _yolo_v8,
    "yolo-obb": _yolo_obb,
    "yolo-v10": _yolo_v10,
    "yolo-v26-seg": _yolo_v10,
    "yolo-v26-pose": _yolo_v10,
    "yolo-v26-obb": _finished_obb,
    "yolox": _yolox,
    "yolox-decoded": _yolox_decoded,
}
