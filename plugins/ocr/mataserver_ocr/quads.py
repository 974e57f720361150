"""Quads: where a line of text stands, as four corners ``(x, y)`` in pixels of a picture.

The corners go clockwise round the box as it lies in the picture, from the one at its top left,
whichever way the text in it runs.
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

LONGEST = 60.0
"""A line that is so many times longer than high is read in pieces; a page's have up to 50."""
GAP_REACH = 6
"""How far from its place a cut may be moved, in heights of the line."""
MARGIN = 4
"""Pixels round a quad that are taken along, for the interpolation at its edges."""


def around(points: Quad) -> Quad:
    """Return the smallest slanted box ``[4, 2]`` around ``points`` ``[n, 2]``."""
    import cv2

    box = cv2.boxPoints(cv2.minAreaRect(points.astype(np.float32))).astype(np.float64)
    corners: Quad = settled(box[None])[0]
    return corners


def settled(found: Quad) -> Quad:
    """Return quads ``[n, 4, 2]``, corners clockwise from any, with the one at the top left first.

    Of the four sides the first is then the one that runs most nearly to the right, whatever the
    proportions: in a steep narrow box the two corners furthest left may be both at the bottom.
    """
    sides = np.roll(found, -1, axis=1) - found
    right = sides[:, :, 0] / np.maximum(np.linalg.norm(sides, axis=2), 1e-9)
    first = (right - np.roll(right, -2, axis=1)).argmax(axis=1)
    corners = (first[:, None] + np.arange(4)) % 4
    return np.take_along_axis(found, corners[:, :, None], axis=1)


def size(quad: Quad) -> tuple[float, float]:
    """Return width and height of a quad: of two opposite sides the longer one."""
    sides = np.linalg.norm(quad - np.roll(quad, -1, axis=0), axis=1)
    return float(max(sides[0], sides[2])), float(max(sides[1], sides[3]))


def area(shape: Quad) -> float:
    """Return the area inside a quad, or another shape ``[n, 2]``, in square pixels."""
    x, y = shape.T
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


def common(one: Quad, other: Quad) -> Quad:
    """Return the shape ``[n, 2]`` that two convex ones have in common; n is 0 if there is none."""
    import cv2

    _, points = cv2.intersectConvexConvex(one.astype(np.float32), other.astype(np.float32))
    return np.empty((0, 2)) if points is None else points.reshape(-1, 2).astype(np.float64)


def shared(one: Quad, other: Quad) -> float:
    """Return the area that two convex shapes have in common, in square pixels."""
    both = common(one, other)
    return area(both) if len(both) else 0.0


def part(quad: Quad, start: float, end: float) -> Quad:
    """Return the piece of a quad between two fractions of its longer direction."""
    width, height = size(quad)
    piece = quad.copy()
    for near, far in ((0, 1), (3, 2)) if width >= height else ((0, 3), (1, 2)):
        way = quad[far] - quad[near]
        piece[near], piece[far] = quad[near] + way * start, quad[near] + way * end
    return piece


def cut_out(page: Image, quad: Quad) -> Image:
    """Return what a quad encloses as an upright picture ``[height, width, 3]``.

    Outside the page its edge goes on.
    """
    import cv2

    width, height = (max(1, round(side)) for side in size(quad))
    # OpenCV refuses to warp from pictures of 32,768 pixels a side: it gets the quad's surroundings.
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


def pieces(page: Image, found: Quad) -> Quad:
    """Return ``found`` ``[n, 4, 2]`` with the longest lines cut where they have gaps."""
    cut: list[Quad] = []
    for quad in found:
        low, high = sorted(size(quad))
        count = math.ceil(high / max(low, 1.0) / LONGEST)
        ends = [_gap(page, quad, each / count) for each in range(1, count)]
        cut += [part(quad, *pair) for pair in itertools.pairwise([0.0, *ends, 1.0])]
    return np.array(cut, np.float64).reshape(-1, 4, 2)


def _gap(page: Image, quad: Quad, place: float) -> float:
    """Return where, near the fraction ``place`` of a line's length, its widest gap lies."""
    low, high = sorted(size(quad))
    reach = GAP_REACH * low / high
    window = cut_out(page, part(quad, place - reach, place + reach))
    columns = window.std(axis=(0, 2) if window.shape[1] >= window.shape[0] else (1, 2))
    # Mean over half a letter: the middle of the widest gap, not just any column without ink.
    width = max(1, round(low / 2))
    smooth = np.convolve(columns, np.ones(width) / width, "valid")
    middle = (int(smooth.argmin()) + width / 2) / len(columns)
    return place + (2 * middle - 1) * reach
