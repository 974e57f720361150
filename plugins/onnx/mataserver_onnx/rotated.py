"""Boxes that are turned, as arrays ``[n, 5]``: middle x and y, width, height, angle in radians.

The angle turns the width's direction from x towards y, clockwise as pictures are seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mataserver_onnx.boxes import MOST_CANDIDATES, MOST_KEPT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float32]
    Indices = NDArray[np.intp]

_TINY = 1e-7


def corners(boxes: Array) -> Array:
    """Return the corners ``[n, 4, 2]`` (x, y) of boxes, one after the other around each."""
    cosine, sine = np.cos(boxes[:, 4]), np.sin(boxes[:, 4])
    along = np.stack([cosine, sine], axis=1) * boxes[:, 2:3] / 2
    across = np.stack([-sine, cosine], axis=1) * boxes[:, 3:4] / 2
    signs = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    points = [boxes[:, :2] + a * along + b * across for a, b in signs]
    found: Array = np.stack(points, axis=1).astype(np.float32)
    return found


def suppress(boxes: Array, scores: Array, labels: Indices, limit: float) -> Indices:
    """Return which boxes to keep, best first, as ``boxes.suppress`` does for upright ones."""
    left = np.argsort(-scores, kind="stable")[:MOST_CANDIDATES]
    spread = _spread(boxes.astype(np.float64))
    kept: list[np.intp] = []
    while len(left) and len(kept) < MOST_KEPT:
        best, left = left[0], left[1:]
        kept.append(best)
        alike = (labels[left] == labels[best]) & (_likeness(spread[best], spread[left]) > limit)
        left = left[~alike]
    return np.array(kept, np.intp)


def _spread(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the normal distribution ``[n, 5]`` of each box: middle, variances, covariance."""
    along, across = boxes[:, 2] ** 2 / 12, boxes[:, 3] ** 2 / 12
    cosine, sine = np.cos(boxes[:, 4]), np.sin(boxes[:, 4])
    return np.stack(
        [
            boxes[:, 0],
            boxes[:, 1],
            along * cosine**2 + across * sine**2,
            along * sine**2 + across * cosine**2,
            (along - across) * cosine * sine,
        ],
        axis=1,
    )


def _likeness(one: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how alike one box is to each of others, 0 to 1, which is near the overlap.

    That is 1 minus the Hellinger distance of their normal distributions (Llerena et al., "Gaussian
    Bounding Boxes and Probabilistic Intersection-over-Union for Object Detection", 2021), by which
    Ultralytics' networks are trained and their repeated boxes dropped.
    """
    dx, dy = (others[:, :2] - one[:2]).T
    a, b, c = (others[:, 2:] + one[2:]).T
    determinant = a * b - c**2 + _TINY
    apart = (a * dy**2 + b * dx**2 - 2 * c * dx * dy) / determinant / 4
    own = np.clip(others[:, 2] * others[:, 3] - others[:, 4] ** 2, 0, None)
    its = max(float(one[2] * one[3] - one[4] ** 2), 0.0)
    shape = np.log(determinant / (4 * np.sqrt(own * its) + _TINY) + _TINY) / 2
    distance = np.clip(apart + shape, _TINY, 100)
    likeness: NDArray[np.float64] = 1 - np.sqrt(1 - np.exp(-distance) + _TINY)
    return likeness
