"""Quads: the box of a text line, as four corners ``(x, y)`` in pixels of a picture.

The corners are in clockwise order in the picture, starting at the top left, whatever the direction
of the text.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Image = NDArray[np.uint8]
    Quad = NDArray[np.float64]

MAX_ASPECT = 60.0
"""A line with a larger aspect ratio is read in sections; a page's lines have up to 50."""
GAP_REACH = 6
"""How far from its position a cut may be moved, in line heights."""
MARGIN = 4
"""Pixels around a quad that are cropped with it, for the interpolation at its edges."""


def min_area_box(points: Quad) -> Quad:
    """Return the smallest rotated box ``[4, 2]`` around ``points`` ``[n, 2]``."""
    import cv2

    box = cv2.boxPoints(cv2.minAreaRect(points.astype(np.float32))).astype(np.float64)
    corners: Quad = with_top_left_first(box[None])[0]
    return corners


def with_top_left_first(found: Quad) -> Quad:
    """Return quads ``[n, 4, 2]`` with clockwise corners reordered to begin at the top left.

    The first of the four sides is then the one that runs most nearly to the right, whatever the
    proportions: in a steep narrow box the two leftmost corners may be both at the bottom.
    """
    sides = np.roll(found, -1, axis=1) - found
    right = sides[:, :, 0] / np.maximum(np.linalg.norm(sides, axis=2), 1e-9)
    first = (right - np.roll(right, -2, axis=1)).argmax(axis=1)
    corners = (first[:, None] + np.arange(4)) % 4
    return np.take_along_axis(found, corners[:, :, None], axis=1)


def size(quad: Quad) -> tuple[float, float]:
    """Return width and height of a quad: the longer of each two opposite sides."""
    sides = np.linalg.norm(quad - np.roll(quad, -1, axis=0), axis=1)
    return float(max(sides[0], sides[2])), float(max(sides[1], sides[3]))


def area(shape: Quad) -> float:
    """Return the area of a polygon ``[n, 2]`` in square pixels."""
    x, y = shape.T
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


def intersection(one: Quad, other: Quad) -> Quad:
    """Return the intersection ``[n, 2]`` of two convex polygons; n is 0 if it is empty."""
    import cv2

    _, points = cv2.intersectConvexConvex(one.astype(np.float32), other.astype(np.float32))
    found = np.empty((0, 2)) if points is None else points.reshape(-1, 2).astype(np.float64)
    # Of polygons that only touch, OpenCV returns a corner at the end of float32's range.
    if len(found) and np.abs(found).max() > max(np.abs(one).max(), np.abs(other).max()) + 1:
        return _clipped(one, other)
    return found


def _clipped(shape: Quad, window: Quad) -> Quad:
    """Return what is inside both of two convex polygons, by Sutherland and Hodgman's method."""
    middle = window.mean(axis=0)
    for start, end in zip(window, np.roll(window, -1, axis=0), strict=True):
        across = np.array([start[1] - end[1], end[0] - start[0]])
        across *= 1.0 if (middle - start) @ across > 0 else -1.0
        inside = (shape - start) @ across
        points = []
        for i in range(len(shape)):
            if inside[i - 1] * inside[i] < 0:
                share = inside[i - 1] / (inside[i - 1] - inside[i])
                points.append(shape[i - 1] + share * (shape[i] - shape[i - 1]))
            if inside[i] >= 0:
                points.append(shape[i])
        shape = np.array(points, np.float64).reshape(-1, 2)
    return shape


def intersection_area(one: Quad, other: Quad) -> float:
    """Return the area of the intersection of two convex polygons, in square pixels."""
    both = intersection(one, other)
    return area(both) if len(both) else 0.0


def section(quad: Quad, start: float, end: float) -> Quad:
    """Return the part of a quad between two fractions of its longer side."""
    width, height = size(quad)
    piece = quad.copy()
    for near, far in ((0, 1), (3, 2)) if width >= height else ((0, 3), (1, 2)):
        way = quad[far] - quad[near]
        piece[near], piece[far] = quad[near] + way * start, quad[near] + way * end
    return piece


def crop(page: Image, quad: Quad) -> Image:
    """Return the content of a quad as an upright picture ``[height, width, 3]``.

    Outside the page its border is replicated.
    """
    import cv2

    width, height = (max(1, round(side)) for side in size(quad))
    # OpenCV cannot warp from pictures of 32,768 pixels a side, so it gets the quad's surroundings.
    x1, y1 = np.maximum(np.floor(quad.min(axis=0)).astype(int) - MARGIN, 0)
    x2, y2 = np.ceil(quad.max(axis=0)).astype(int) + MARGIN
    corners = (quad - (x1, y1)).astype(np.float32)
    target = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    cut = cv2.warpPerspective(
        page[y1:y2, x1:x2],
        cv2.getPerspectiveTransform(corners, target),
        (width, height),
        flags=cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.asarray(cut, np.uint8)


def split_long_lines(page: Image, found: Quad) -> Quad:
    """Return ``found`` ``[n, 4, 2]`` with the longest lines split at gaps."""
    cut: list[Quad] = []
    for quad in found:
        low, high = sorted(size(quad))
        count = math.ceil(high / max(low, 1.0) / MAX_ASPECT)
        ends = [_widest_gap(page, quad, each / count) for each in range(1, count)]
        cut += [section(quad, *pair) for pair in itertools.pairwise([0.0, *ends, 1.0])]
    return np.array(cut, np.float64).reshape(-1, 4, 2)


def _widest_gap(page: Image, quad: Quad, place: float) -> float:
    """Return the position of the widest gap near the fraction ``place`` of a line's length."""
    low, high = sorted(size(quad))
    reach = GAP_REACH * low / high
    window = crop(page, section(quad, place - reach, place + reach))
    columns = window.std(axis=(0, 2) if window.shape[1] >= window.shape[0] else (1, 2))
    # Mean over half a letter: finds the middle of the widest gap, not any column without ink.
    width = max(1, round(low / 2))
    smooth = np.convolve(columns, np.ones(width) / width, "valid")
    middle = (int(smooth.argmin()) + width / 2) / len(columns)
    return place + (2 * middle - 1) * reach
