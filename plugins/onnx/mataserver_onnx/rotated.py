"""Rotated boxes, as arrays ``[n, 5]``: center x and y, width, height, angle in radians.

The angle rotates the width's direction from x towards y, clockwise in a displayed picture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mataserver_onnx.boxes import MAX_CANDIDATES, MAX_KEPT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float32]
    Indices = NDArray[np.intp]

_TINY = 1e-7


def corners(boxes: Array) -> Array:
    """Return the corners ``[n, 4, 2]`` (x, y) of boxes, in order around each."""
    cosine, sine = np.cos(boxes[:, 4]), np.sin(boxes[:, 4])
    along = np.stack([cosine, sine], axis=1) * boxes[:, 2:3] / 2
    across = np.stack([-sine, cosine], axis=1) * boxes[:, 3:4] / 2
    signs = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    points = [boxes[:, :2] + a * along + b * across for a, b in signs]
    found: Array = np.stack(points, axis=1).astype(np.float32)
    return found


def suppress(boxes: Array, scores: Array, labels: Indices, limit: float) -> Indices:
    """Return which boxes to keep, best first, as ``boxes.suppress`` does for upright ones."""
    left = np.argsort(-scores, kind="stable")[:MAX_CANDIDATES]
    spread = _gaussians(boxes.astype(np.float64))
    kept: list[np.intp] = []
    while len(left) and len(kept) < MAX_KEPT:
        best, left = left[0], left[1:]
        kept.append(best)
        alike = (labels[left] == labels[best]) & (_prob_iou(spread[best], spread[left]) > limit)
        left = left[~alike]
    return np.array(kept, np.intp)


def _gaussians(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the normal distribution ``[n, 5]`` of each box: mean, variances, covariance."""
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


def _prob_iou(one: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the similarity of one box to each of the others, 0 to 1, close to the overlap.

    That is 1 minus the Hellinger distance of their normal distributions (Llerena et al., "Gaussian
    Bounding Boxes and Probabilistic Intersection-over-Union for Object Detection", 2021), with
    which Ultralytics' networks are trained and their repeated boxes suppressed.
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
