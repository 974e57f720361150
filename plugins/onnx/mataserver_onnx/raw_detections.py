"""Detections of one image as arrays, and checks that a network's outputs fit its layout."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mataserver_onnx.boxes import corners

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mataserver_onnx.preparation import Placement

    Array = NDArray[np.float32]
    Indices = NDArray[np.intp]

ROUNDING = 1 / 64
"""By how much a score in 8 or 16 bits may lie outside 0 to 1."""
MAX_RELATIVE = 1.5
"""The largest coordinate of a relative box; a set of boxes in pixels always has a larger one."""
MIN_CHECKED_SIDE = 32
"""The smallest picture side for ``check_pixels``: boxes in tinier ones look relative."""


class Detections(NamedTuple):
    """Detections of one image, best first.

    boxes:  ``[n, 4]`` in the image's pixels, not clipped to it.
    scores: ``[n]``, 0 to 1. labels: ``[n]``, class indices.
    rows:   ``[n]``, the index of each among the network's answers.
    rotated_corners: ``[n, 4, 2]``, the corners of rotated boxes, in order around each; None for
            upright boxes.
    """

    boxes: Array
    scores: Array
    labels: Indices
    rows: Indices
    rotated_corners: Array | None = None

    def without_inverted(self) -> Detections:
        """Return them without inverted boxes (x2 < x1 or y2 < y1), which uncertain answers have."""
        sound = (self.boxes[:, 2] >= self.boxes[:, 0]) & (self.boxes[:, 3] >= self.boxes[:, 1])
        if sound.all():
            return self
        turned = None if self.rotated_corners is None else self.rotated_corners[sound]
        return Detections(
            self.boxes[sound], self.scores[sound], self.labels[sound], self.rows[sound], turned
        )


class ReadOptions(NamedTuple):
    """What to read from a network's answers.

    confidence: the lowest score.
    overlap:    the overlap above which two boxes are one object.
    max_pairs:  how many pairs of a query and a class are read; None is one per query.
    tail:       how many trailing numbers of an answer belong to its mask or keypoints.
    objectness_only: whether the score is the objectness, and not that times the class's.
    """

    confidence: float
    overlap: float
    max_pairs: int | None = None
    tail: int = 0
    objectness_only: bool = False


class LayoutMismatchError(ValueError):
    """Numbers that the stated or recognised layout cannot produce."""


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


def best_classes(scores: Array, options: ReadOptions) -> tuple[Indices, Array, Indices]:
    """Return the rows of ``[n, C]`` that reach the confidence, their best scores and classes."""
    labels = scores.argmax(axis=1) if len(scores) else np.empty(0, np.intp)
    best = scores[np.arange(len(labels)), labels]
    sure = np.flatnonzero(best >= options.confidence)
    return sure, best[sure], labels[sure]


def end2end_rows(rows: Array, options: ReadOptions) -> tuple[Indices, Indices]:
    """Return the rows that reach the confidence, best first, and their classes.

    ``rows`` are the output of a network that suppresses repeated boxes itself. It fills up the rest
    of them with scores of 0, which are no detections.
    """
    check_scores(rows[:, 4])
    classes = np.rint(rows[:, 5])  # a class in 8 or 16 bits may be 1.996, which is 2
    if (np.abs(rows[:, 5] - classes) > ROUNDING).any():
        raise LayoutMismatchError("a class number is not a whole number")
    best = sorted_above(rows[:, 4], options.confidence)
    best = best[rows[best, 4] > 0]
    if (classes[best] < 0).any():
        raise LayoutMismatchError("a class number is below 0")
    return best, classes[best].astype(np.intp)


def check_pixels(boxes: Array) -> None:
    """Raise ``LayoutMismatchError`` for relative boxes where pixels are expected."""
    if len(boxes) and 0 < np.abs(boxes).max() <= MAX_RELATIVE:
        raise LayoutMismatchError("its boxes are fractions of the image")


def check_ordered(boxes: Array) -> None:
    """Raise ``LayoutMismatchError`` for boxes most of which are inverted."""
    backwards = (boxes[:, 2:] < boxes[:, :2]).any(axis=1)
    if backwards.sum() * 2 > len(boxes):  # a single one is an uncertain answer
        raise LayoutMismatchError("its boxes end before they begin")


def check_logits(logits: Array) -> None:
    """Raise ``LayoutMismatchError`` for probabilities: of logits, some are always below 0."""
    if logits.size and logits.min() >= 0 and logits.max() <= 1:
        raise LayoutMismatchError("its scores are probabilities already")


def check_scores(scores: Array) -> None:
    """Raise ``LayoutMismatchError`` unless the numbers lie in 0 to 1, within rounding."""
    if not scores.size:
        return
    low, high = float(scores.min()), float(scores.max())
    if low < -ROUNDING or high > 1 + ROUNDING:
        raise LayoutMismatchError(f"its scores go from {low:.4g} to {high:.4g}")


def sorted_above(scores: Array, confidence: float) -> Indices:
    """Return the indices of the scores that reach the confidence, best first."""
    likely = np.flatnonzero(scores >= confidence)
    return likely[np.argsort(-scores[likely], kind="stable")]


def to_pixel_corners(boxes: Array, place: Placement) -> Array:
    """Convert relative boxes (center x, center y, width, height) to corners in pixels.

    Raises ``LayoutMismatchError`` for boxes that are in pixels already.
    """
    if len(boxes) and np.abs(boxes).max() > MAX_RELATIVE:
        raise LayoutMismatchError("its boxes are not fractions of the image")
    height, width = place.size
    scaled: Array = corners(boxes) * np.array([width, height] * 2, np.float32)
    return scaled
