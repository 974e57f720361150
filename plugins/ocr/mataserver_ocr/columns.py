"""Columns: text in columns is read down, column by column, and not across.

Reading by rows is right for receipts, tables and forms, whose cells belong together from left to
right, and wrong for a page in columns, whose lines it would mix. The two are distinguished by how
lines fill the space: those of a column are long and nearly all of one length, cells are neither. In
a form whose cells are all long, each cell has a counterpart in its row, and rows are further apart
than lines of running text.
"""

from __future__ import annotations

from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    _Band = tuple[list[int], list[int], list[int]]

MIN_COLUMN_LINES = 3
"""The least number of lines of a column."""
MIN_ASPECT = 9.0
"""The least length, in line heights, of half the lines of a column: some 18 letters."""
MIN_FILL = 0.7
"""The least share of a column's width that half its lines fill."""
MIN_GUTTER = 0.3
"""The least space between two columns, in line heights."""
MIN_ROW_STEP = 2.0
"""The distance, in line heights, above which rows belong to a form and not to running text."""
ROW_TOLERANCE = 0.3
"""The largest distance, in line heights, between the centers of lines in one row."""
BOX_MARGIN = 0.3
"""How far a detector's box extends beyond its letters at either end, in its height."""


class Line(NamedTuple):
    """The position of a line's letters on an upright page, in pixels."""

    left: float
    right: float
    middle: float
    height: float

    @classmethod
    def from_box(cls, middle: tuple[float, float], height: float, length: float) -> Line:
        """Return the line of a box of that center, height and length."""
        x, y = middle
        half = length / 2 - min(BOX_MARGIN * height, length / 4)
        return cls(x - half, x + half, y, height)


def reading_groups(lines: Sequence[Line]) -> list[list[int]]:
    """Return the indexes of ``lines`` in groups to read one after the other, each by its rows.

    A line that spans two columns, such as a title, is read after the lines above it and before
    those below it. A page without columns is a single group.
    """
    return _split_columns(lines, sorted(range(len(lines)), key=lambda index: lines[index].middle))


def _split_columns(lines: Sequence[Line], down: list[int]) -> list[list[int]]:
    """Split the lines ``down``, which are sorted from top to bottom."""
    most, best = 0, [down]
    for gutter in _gutters([lines[index] for index in down]):
        count, groups = _split(lines, down, gutter)
        if count > most:
            most, best = count, groups
    return [part for group in best for part in _split_columns(lines, group)] if most else best


def _gutters(lines: Sequence[Line]) -> Iterator[float]:
    """Yield where columns may begin on the left: where enough lines do, within one letter."""
    if len(lines) < 2 * MIN_COLUMN_LINES:
        return
    letter = median(line.height for line in lines)
    starts = sorted(line.left for line in lines)
    at = 0
    while at < len(starts):
        end = at
        while end < len(starts) and starts[end] <= starts[at] + letter:
            end += 1
        if at and end - at >= MIN_COLUMN_LINES:
            yield starts[at]
        at = end


def _split(lines: Sequence[Line], down: list[int], gutter: float) -> tuple[int, list[list[int]]]:
    """Return how many lines are in columns on both sides of ``gutter``, and all in groups."""
    groups: list[list[int]] = [[]]
    count = 0
    for across, left, right in _bands(lines, down, gutter):
        groups[-1] += across
        if _are_columns(lines, left, right, gutter):
            groups += [left, right, []]
            count += len(left) + len(right)
        else:  # rows, like the lines that span the gutter
            groups[-1] += sorted(left + right, key=lambda index: lines[index].middle)
    return count, [group for group in groups if group]


def _bands(lines: Sequence[Line], down: list[int], gutter: float) -> Iterator[_Band]:
    """Yield the lines that span ``gutter``, with those left and right of it below them."""
    across: list[int] = []
    left: list[int] = []
    right: list[int] = []
    for index in down:
        line = lines[index]
        if line.left < gutter < line.right:
            yield across, left, right
            across, left, right = [index], [], []
        else:
            (left if line.left < gutter else right).append(index)
    yield across, left, right


def _are_columns(lines: Sequence[Line], left: list[int], right: list[int], gutter: float) -> bool:
    if min(len(left), len(right)) < MIN_COLUMN_LINES:
        return False
    space = MIN_GUTTER * median(lines[index].height for index in left)
    apart = max(lines[index].right for index in left) + space <= gutter
    filled = apart and _is_read_down(lines, left) and _is_read_down(lines, right)
    return filled and not _are_rows(lines, left, right)


def _are_rows(lines: Sequence[Line], left: list[int], right: list[int]) -> bool:
    """Whether each line has a counterpart on the other side and space below it, as cells have."""
    height = median(lines[index].height for index in left)
    sides = [sorted(lines[index].middle for index in side) for side in (left, right)]
    for own, other in (sides, sides[::-1]):
        if any(min(abs(y - each) for each in other) > ROW_TOLERANCE * height for y in own):
            return False
    steps = (below - above for above, below in pairwise(sides[0]))
    return (
        median([step for step in steps if step > ROW_TOLERANCE * height] or [0.0])
        > MIN_ROW_STEP * height
    )


def _is_read_down(lines: Sequence[Line], side: list[int]) -> bool:
    """Whether the lines are one column, or several beside each other."""
    lengths = [lines[index].right - lines[index].left for index in side]
    width = max(lines[i].right for i in side) - min(lines[i].left for i in side)
    usual, height = median(lengths), median(lines[index].height for index in side)
    if usual >= MIN_ASPECT * height and usual >= MIN_FILL * width:
        return True
    return len(_split_columns(lines, side)) > 1
