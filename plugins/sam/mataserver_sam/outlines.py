"""The outlines of a mask as polygons along the edges of its pixels.

OpenCV's own run through the middles of the outermost pixels: a square of 10 by 10 pixels would be
one of 9 by 9. So they are traced on a lattice that has a place for each edge and corner of a pixel
and for its middle; edges and corners have at least one even coordinate there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def outlines(bits: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """Return the outer outlines of a mask ``[H, W]``: corners ``[n, 2]`` (x, y) in order.

    Pixels that touch at a corner are one part; holes are left out.
    """
    height, width = bits.shape
    if not height or not width:
        return []
    large: Any = cv2.resize(
        np.ascontiguousarray(bits).view(np.uint8),
        (2 * width, 2 * height),
        interpolation=cv2.INTER_NEAREST,
    )
    lattice = np.zeros((2 * height + 1, 2 * width + 1), np.uint8)
    for down in (0, 1):
        for right in (0, 1):
            lattice[down : down + 2 * height, right : right + 2 * width] |= large
    found, _ = cv2.findContours(lattice, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [_with_inner_corners(each[:, 0].astype(np.int64)) / 2 for each in found]


def _with_inner_corners(points: NDArray[np.int64]) -> NDArray[np.int64]:
    """Put the corner in place of each step that cuts it off: from one edge to another.

    Contours of eight neighbours do that where the outline turns inwards.
    """
    following = np.roll(points, -1, axis=0)
    cuts = (np.abs(following - points) == 1).all(axis=1)
    corners = np.where(points % 2 == 0, points, following)
    ends = np.roll(cuts, 1)
    kept: NDArray[np.int64] = np.where(cuts[:, None], corners, points)[cuts | ~ends]
    return kept
