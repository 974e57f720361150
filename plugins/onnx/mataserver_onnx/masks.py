"""Computes masks of an image's size from segmentation outputs, a few rows at a time.

All maps of 150 classes at an image's size would take gigabytes; blocks of rows stay in the cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mataserver_onnx import resample
from mataserver_onnx.detections import read
from mataserver_onnx.yolo import FORMS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from mataserver_onnx.options import LayoutName
    from mataserver_onnx.preparation import Placement
    from mataserver_onnx.raw_detections import ReadOptions

    Array = NDArray[np.float32]
    Mask = NDArray[np.bool_]
    Indices = NDArray[np.intp]
    Size = tuple[int, int]

_MASK_THRESHOLD = 0.5
"""The least probability of a pixel that belongs to a class that excludes no other."""
_PIXELS = 1024
"""How many pixels are computed at a time: of 150 classes so many fit the CPU's cache."""


class ScoredMask(NamedTuple):
    """One segment: class index, confidence in 0..1, and a mask ``[H, W]``."""

    label: int
    confidence: float
    mask: Mask


def semantic(
    logits: Array,
    probabilities: Array,
    size: Size,
    confidence: float,
    *,
    independent: bool = False,
) -> Iterator[ScoredMask]:
    """Assign each pixel to the class of the largest resized logit; yield one segment per class.

    ``logits`` and ``probabilities`` are ``[C, h, w]``. A segment's confidence is the mean, over its
    pixels, of the class's probability at the network's own resolution; those below ``confidence``
    are left out. If the classes are ``independent``, or there is only one, a class's segment is the
    pixels of at least ``_MASK_THRESHOLD``: there may be none, and segments may overlap.
    """
    if independent or len(probabilities) == 1:
        for index, each in enumerate(probabilities):
            own = resample.bilinear(each, size)
            mask = own >= _MASK_THRESHOLD
            if mask.any() and (mean := float(own[mask].mean())) >= confidence:
                yield ScoredMask(index, min(mean, 1.0), mask)
        return
    winner, (rows, columns) = largest_maps(logits, size), _neighbours(logits, size)
    for label in np.flatnonzero(np.bincount(winner.ravel(), minlength=len(logits))):
        mask = winner == label
        part = bounds(mask)
        near = resample.sample(probabilities[label], rows.of(part[0]), columns.of(part[1]))
        mean = float(near[mask[part]].mean())
        if mean >= confidence:
            yield ScoredMask(int(label), min(mean, 1.0), mask)


def largest_maps(logits: Array, size: Size) -> NDArray[np.int32]:
    """Return the index of the largest of ``[C, h, w]`` at each pixel; the first of equals.

    A class that is the largest at all four neighbours of a pixel is the largest there, whatever
    their weights: only pixels between neighbours of several classes are computed.
    """
    rows, columns = _neighbours(logits, size)
    spots = np.ascontiguousarray(logits.transpose(1, 2, 0))
    classes = spots.argmax(axis=2).astype(np.int32)
    left, right = (classes[:, places] for places in columns.places.T)
    alike = left == right
    winner = np.empty(size, np.int32)
    for piece, part in resample.blocks(rows, size[1]):
        upper, lower = part.places.T
        found = winner[piece] = left[upper]
        unsure = ~(alike[upper] & alike[lower]) | (left[lower] != found)
        for y, x in _pixels(unsure):
            values = resample.sample_at(spots, part.of(y), columns.of(x))
            winner[piece][y, x] = values.argmax(axis=1)
    return winner


def _neighbours(maps: Array, size: Size) -> tuple[resample.Taps, resample.Taps]:
    """Return the neighbours of each row and each column of ``size`` on maps ``[C, h, w]``."""
    rows, columns = (
        resample.linear(resample.positions(new, old), old)
        for new, old in zip(size, maps.shape[1:], strict=True)
    )
    return rows, columns


def bounds(mask: Mask) -> tuple[slice, slice]:
    """Return the rows and the columns of a mask from its first pixel to its last."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _pixels(mask: Mask) -> Iterator[tuple[Indices, Indices]]:
    """Yield the rows and the columns of a mask's pixels, some at a time."""
    rows, columns = np.nonzero(mask)
    for start in range(0, len(rows), _PIXELS):
        yield rows[start : start + _PIXELS], columns[start : start + _PIXELS]


def instances(
    layout: LayoutName, outputs: Sequence[Array], place: Placement, options: ReadOptions
) -> Iterator[ScoredMask]:
    """Yield the objects of a layout with masks.

    The masks cover the network's whole input; they are resized directly to the image's pixels,
    without the letterbox. Raises ``MataError`` as ``detections.read``.
    """
    found = read(layout, outputs, place, options)
    whole = np.array([0, 0, place.size[1], place.size[0]], np.float32)
    for index, row in enumerate(found.rows):
        if layout == "rf-detr-seg":  # has a map per answer, and no prototypes
            values, box = outputs[-1][row], whole
        else:
            values, box = _prototype_sum(layout, outputs, int(row)), found.boxes[index]
        mask = _mask_in_box(values, box, place)
        if mask.any():
            yield ScoredMask(int(found.labels[index]), float(found.scores[index]), mask)


def _prototype_sum(layout: LayoutName, outputs: Sequence[Array], row: int) -> Array:
    """Return the mask of YOLO's object: a weighted sum of the prototypes ``[k, h, w]``."""
    answers, prototypes = outputs
    answer = answers[:, row] if FORMS[layout].in_columns else answers[row]
    total: Array = np.tensordot(answer[-len(prototypes) :], prototypes, axes=1)
    return total


def _mask_in_box(values: Array, box: Array, place: Placement) -> Mask:
    """Return the image's pixels in a box where a map of the network's input is above 0."""
    height, width = place.size
    x1, x2 = (round(float(x)) for x in np.clip(box[[0, 2]], 0, width))
    y1, y2 = (round(float(y)) for y in np.clip(box[[1, 3]], 0, height))
    mask = np.zeros(place.size, bool)
    if x2 > x1 and y2 > y1:
        rows = _sample_positions(
            y1, y2, place.scale_y, place.top, values.shape[0], place.input_size[0]
        )
        columns = _sample_positions(
            x1, x2, place.scale_x, place.left, values.shape[1], place.input_size[1]
        )
        mask[y1:y2, x1:x2] = resample.sample(values, rows, columns) > 0
    return mask


def _sample_positions(
    first: int, last: int, scale: float, start: float, old: int, side: int
) -> resample.Taps:
    """Return the positions of an image's pixel centers on a map that covers the input."""
    middles = np.arange(first, last, dtype=np.float32) + np.float32(0.5)
    at = (middles * np.float32(scale) + np.float32(start)) * np.float32(old / side)
    return resample.linear(at - np.float32(0.5), old)
