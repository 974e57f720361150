"""Boxes as arrays ``[n, 4]`` (x1, y1, x2, y2): overlaps and non-maximum suppression."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mataserver import Box

    Array = NDArray[np.float32]
    Floats = NDArray[np.floating[Any]]
    Indices = NDArray[np.intp]

MAX_CANDIDATES = 30_000
"""Of more boxes than this the weakest are ignored, as in Ultralytics' implementation."""
MAX_KEPT = 300


def corners(boxes: Array) -> Array:
    """Convert (center x, center y, width, height) to corners."""
    middle, half = boxes[:, :2], boxes[:, 2:] / 2
    turned: Array = np.concatenate([middle - half, middle + half], axis=1)
    return turned


def overlaps(box: Floats, others: Floats) -> Floats:
    """Return the intersection over union of one box ``[4]`` with each of ``[n, 4]``."""
    low = np.maximum(box[:2], others[:, :2])
    high = np.minimum(box[2:], others[:, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=1)
    areas = np.prod(others[:, 2:] - others[:, :2], axis=1)
    union = areas + np.prod(box[2:] - box[:2]) - shared
    ratio: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return ratio


def suppress(boxes: Array, scores: Array, labels: Indices, limit: float) -> Indices:
    """Return which boxes to keep, best first: greedy non-maximum suppression within each class.

    A box is dropped when it overlaps a better one of its class by more than ``limit``. At most
    ``MAX_KEPT`` are kept.
    """
    left = np.argsort(-scores, kind="stable")[:MAX_CANDIDATES]
    # With an offset per class, boxes of different classes never overlap. In float32 the offset of a
    # class beyond the thousandth would round boxes by a sixteenth of a pixel.
    wide = boxes.astype(np.float64)
    span = float(wide.max(initial=0) - wide.min(initial=0)) + 1
    apart = wide + (labels * span)[:, None]
    kept: list[np.intp] = []
    while len(left) and len(kept) < MAX_KEPT:
        best, left = left[0], left[1:]
        kept.append(best)
        left = left[overlaps(apart[best], apart[left]) <= limit]
    return np.array(kept, np.intp)


def clip(box: Array, size: tuple[int, int]) -> Box:
    """Return a box as plain numbers, clipped to an image of ``size`` (height, width)."""
    x1, y1, x2, y2 = (float(value) for value in box)
    height, width = float(size[0]), float(size[1])
    return (
        min(max(x1, 0.0), width),
        min(max(y1, 0.0), height),
        min(max(x2, 0.0), width),
        min(max(y2, 0.0), height),
    )
