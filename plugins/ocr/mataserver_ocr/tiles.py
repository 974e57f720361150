"""Tiles: finds the lines of a large page whose letters vanish when the page is scaled down.

A detector sees a whole page at a bounded size: on a page of 7,000 pixels a side, letters of 32
pixels shrink to four. Such a page is also searched in overlapping tiles: bands below each other,
and strips side by side in each band. What was read surely on the whole page stays as it is.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from mataserver_ocr import quads, strips

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mataserver_ocr.quads import Image, Quad
    from mataserver_ocr.strips import Find

LARGE = 2.75
"""The length of a page in the detector's sides above which letters vanish.

So measured with labels in photographs: the first of 14 pixels at 2.8, and of 24 at 3.4.
"""
TILE = 2.3
"""A tile's side in the detector's sides: letters of a dozen pixels are found at that scale."""
MAX_TILES = 16
"""The maximum tiles of a page: each is a run of the detector, within one step of the worker."""
GROWTH = 1.05
"""The factor by which tiles grow until there are few enough."""
SURE_SCORE = 0.9
"""The score from which a line of small letters is not read again at full size."""


def is_large(height: int, width: int, side: int) -> bool:
    """Whether letters of an ordinary size may vanish on a page, detected at ``side`` as a whole.

    A photograph of 12 megapixels is large, and a sheet at 300 dots per inch: both have four tiles.
    """
    return strips.strip_length(height, width, side) > LARGE * side


def blurred_height(height: int, width: int, side: int) -> float:
    """Return the height of a box, in pixels, below which its letters may be blurred."""
    return strips.MIN_LINE_HEIGHT * strips.strip_length(height, width, side) / side


def tile_size(height: int, width: int, side: int) -> int:
    """Return the side of a page's tiles in pixels."""
    size = round(TILE * side)
    while len(strips.spans(height, size)) * len(strips.spans(width, size)) > MAX_TILES:
        size = math.ceil(size * GROWTH)
    return size


def find_lines(page: Image, find: Find, side: int) -> Quad:
    """Return the quads ``[n, 4, 2]`` of the lines that tiles show, each line once, unordered.

    ``find`` returns the quads of a picture, which it scales to at most ``side`` pixels a side.
    """
    size = tile_size(page.shape[0], page.shape[1], side)

    def find_in_band(band: Image) -> Quad:
        return strips.search(band, find, size, side, tall=False)

    return strips.search(page, find_in_band, size, side, tall=True)


def merge(
    whole: Quad, scores: Sequence[float], in_tiles: Quad, blurred: float
) -> tuple[list[int], list[int]]:
    """Return the indexes of the lines ``whole`` to keep, and of those ``in_tiles`` to add.

    ``whole`` were read on the whole page with ``scores``. A line that both show is kept, unless it
    was read unsurely, is less than ``blurred`` pixels high and is shown by tiles for most of its
    area, or is really several lines.
    """
    kept: list[int] = []
    added = set(range(len(in_tiles)))
    for index, others in enumerate(_overlapping(whole, in_tiles)):
        line = whole[index]
        shared = {each: quads.intersection_area(line, in_tiles[each]) for each in others}
        same = {
            each
            for each, area in shared.items()
            if area >= strips.SAME_LINE * min(quads.area(line), quads.area(in_tiles[each]))
        }
        height = min(quads.size(line))
        # A tile that shows a dot or a word of the line takes nothing of it away.
        is_shown = sum(shared[each] for each in same) >= strips.SAME_LINE * quads.area(line)
        unsure = scores[index] < SURE_SCORE and height < blurred and is_shown
        if unsure or _is_small_print(height, quads.area(line), shared, in_tiles):
            continue
        kept.append(index)
        added -= same
    return kept, sorted(added)


def _is_small_print(height: float, area: float, shared: dict[int, float], in_tiles: Quad) -> bool:
    """Whether several lines of small print look like one on the whole page."""
    small = [
        part
        for each, part in shared.items()
        if part > 0 and min(quads.size(in_tiles[each])) < height / 2
    ]
    return len(small) > 1 and sum(small) > strips.SMALL_PRINT_SHARE * area


def _overlapping(whole: Quad, in_tiles: Quad) -> Iterator[list[int]]:
    """Yield for each line which upright boxes of ``in_tiles`` overlap its own."""
    low, high = in_tiles.min(axis=1), in_tiles.max(axis=1)
    for line in whole:
        near = (low < line.max(axis=0)).all(axis=1) & (high > line.min(axis=0)).all(axis=1)
        yield np.flatnonzero(near).tolist()
