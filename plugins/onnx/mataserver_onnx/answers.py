"""Detections of one image, and what tells whether numbers can be some."""

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
"""By how much a score in 8 or 16 bits may leave 0 to 1."""
IN_PARTS = 1.5
"""No box in pixels lies so near the picture's corner as a whole, and no part is so large."""
LEAST_SIDE = 32
"""A smaller picture's own pixels may look like parts."""


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


class ForeignError(ValueError):
    """Numbers that a layout cannot have."""


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


def likeliest(scores: Array, ask: Ask) -> tuple[Indices, Array, Indices]:
    """Return which of the rows ``[n, C]`` suffice, the best score of each, and its class."""
    labels = scores.argmax(axis=1) if len(scores) else np.empty(0, np.intp)
    best = scores[np.arange(len(labels)), labels]
    sure = np.flatnonzero(best >= ask.confidence)
    return sure, best[sure], labels[sure]


def finished(rows: Array, ask: Ask) -> tuple[Indices, Indices]:
    """Return which of the network's finished rows suffice, best first, and their classes."""
    check_scores(rows[:, 4])
    if (np.abs(rows[:, 5] - np.rint(rows[:, 5])) > ROUNDING).any():
        raise ForeignError("what should be the number of a class is none")
    best = best_of(rows[:, 4], ask.confidence)
    if (rows[best, 5] < 0).any():
        raise ForeignError("what should be the number of a class is below 0")
    return best, rows[best, 5].astype(np.intp)


def check_pixels(boxes: Array) -> None:
    """Raise ``ForeignError`` for boxes in parts of a picture where they should be in pixels."""
    if len(boxes) and 0 < np.abs(boxes).max() <= IN_PARTS:
        raise ForeignError("its boxes are parts of a picture")


def check_ordered(boxes: Array) -> None:
    """Raise ``ForeignError`` for boxes most of which end before they begin."""
    backwards = (boxes[:, 2:] < boxes[:, :2]).any(axis=1)
    if backwards.sum() * 2 > len(boxes):  # a single one is an unsure answer
        raise ForeignError("its boxes end before they begin")


def check_logits(logits: Array) -> None:
    """Raise ``ForeignError`` for probabilities: most of the logits of queries are below 0."""
    if logits.size and logits.min() >= 0 and logits.max() <= 1:
        raise ForeignError("its scores are probabilities already")


def check_scores(scores: Array) -> None:
    """Raise ``ForeignError`` unless numbers lie between 0 and 1, but for rounding."""
    if not scores.size:
        return
    low, high = float(scores.min()), float(scores.max())
    if low < -ROUNDING or high > 1 + ROUNDING:
        raise ForeignError(f"its scores go from {low:.4g} to {high:.4g}")


def best_of(scores: Array, confidence: float) -> Indices:
    """Return the places of the scores that suffice, best first."""
    likely = np.flatnonzero(scores >= confidence)
    return likely[np.argsort(-scores[likely], kind="stable")]


def in_pixels(boxes: Array, place: Placement) -> Array:
    """Turn (middle x, middle y, width, height) in parts of the image into corners in pixels.

    Raises ``ForeignError`` for what is in pixels already.
    """
    if len(boxes) and np.abs(boxes).max() > IN_PARTS:
        raise ForeignError("its boxes are no parts of a picture")
    height, width = place.size
    scaled: Array = corners(boxes) * np.array([width, height] * 2, np.float32)
    return scaled
