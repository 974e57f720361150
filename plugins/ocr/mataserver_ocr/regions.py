"""Lines of text in the wire format: clipped boxes, in reading order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mataserver import OcrResult

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mataserver import Box, TextRegion

    Point = tuple[float, float]


def bounding_box(points: Iterable[Point], height: int, width: int) -> Box | None:
    """Return the upright box around ``points``, clipped to the image; None if it is empty."""
    xs, ys = zip(*points, strict=True)
    x1, x2 = (min(max(float(x), 0.0), float(width)) for x in (min(xs), max(xs)))
    y1, y2 = (min(max(float(y), 0.0), float(height)) for y in (min(ys), max(ys)))
    return (x1, y1, x2, y2) if x2 > x1 and y2 > y1 else None


def reading_order(
    middles: Sequence[Point],
    heights: Sequence[float],
    lengths: Sequence[float],
    *,
    right_to_left: bool = False,
) -> list[int]:
    """Return the indexes of lines from top to bottom, and from left to right within a row.

    ``right_to_left`` is the other way round, also for columns.

    ``middles`` are the lines' centers, ``heights`` the heights of their letters, ``lengths`` their
    extent along the row, in pixels. A line belongs to a row when its center lies within half its
    height of the row's first one. Text in columns is read column by column.
    """
    from mataserver_ocr.columns import Line, reading_groups  # a worker's: statistics is large

    if right_to_left:
        middles = [(-x, y) for x, y in middles]
    lines = [Line.from_box(*each) for each in zip(middles, heights, lengths, strict=True)]
    return [index for group in reading_groups(lines) for index in _by_rows(group, middles, heights)]


def _by_rows(group: Sequence[int], middles: Sequence[Point], heights: Sequence[float]) -> list[int]:
    rows: list[list[int]] = []
    for index in sorted(group, key=lambda i: middles[i][1]):
        first = rows[-1][0] if rows else None
        if first is not None and _same_row(middles, heights, first, index):
            rows[-1].append(index)
        else:
            rows.append([index])
    return [index for row in rows for index in sorted(row, key=lambda i: middles[i][0])]


def _same_row(middles: Sequence[Point], heights: Sequence[float], a: int, b: int) -> bool:
    return abs(middles[a][1] - middles[b][1]) < min(heights[a], heights[b]) / 2


def result(regions: list[TextRegion], least: float = 0.0) -> OcrResult:
    """Return the regions of at least a confidence; ``text`` joins their texts, one per line."""
    sure = [region for region in regions if region.confidence >= least]
    return OcrResult("\n".join(region.text for region in sure), sure)
