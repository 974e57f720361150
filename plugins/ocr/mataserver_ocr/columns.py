"""Columns: text that is set side by side is read down, column by column, and not across.

Rows are right for receipts, tables and forms, whose cells belong together from left to right, and
wrong for a page in columns, of which they would mix the lines. How lines fill the space tells the
two apart: those of a column are long and nearly all of one length, cells are neither. A form whose
cells are all long has each beside its counterpart, and its rows further apart than running text.
"""

from __future__ import annotations

from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    _Band = tuple[list[int], list[int], list[int]]

LEAST_LINES = 3
"""So many lines, one below the other, make a column."""
LONG = 9.0
"""Half the lines of a column are at least so many times as long as high: some 18 letters."""
FULL = 0.7
"""Half the lines of a column are at least this share of its width."""
GUTTER = 0.3
"""Between two columns are at least so many heights of a line."""
AIRY = 2.0
"""From one row of a form to the next are more heights of a line than in running text."""
ALIKE = 0.3
"""Lines stand in one row if their middles differ by no more, in heights of a line."""
MARGIN = 0.3
"""How far a box reaches beyond its letters at either end, in its height, as detectors draw them."""


class Line(NamedTuple):
    """Where the letters of a line stand on a page that is set upright, in pixels."""

    left: float
    right: float
    middle: float
    height: float

    @classmethod
    def boxed(cls, middle: tuple[float, float], height: float, length: float) -> Line:
        """Return the line of a box of that middle, height and length."""
        x, y = middle
        half = length / 2 - min(MARGIN * height, length / 4)
        return cls(x - half, x + half, y, height)


def parted(lines: Sequence[Line]) -> list[list[int]]:
    """Return the indexes of ``lines`` in groups to read one after the other, each by its rows.

    What reaches across two columns, such as a title, is read after what stands above it and before
    what stands below it. A page without columns is a single group.
    """
    return _parted(lines, sorted(range(len(lines)), key=lambda index: lines[index].middle))


def _parted(lines: Sequence[Line], down: list[int]) -> list[list[int]]:
    """Part the lines ``down``, which are sorted from top to bottom."""
    most, best = 0, [down]
    for gutter in _gutters([lines[index] for index in down]):
        count, groups = _split(lines, down, gutter)
        if count > most:
            most, best = count, groups
    return [part for group in best for part in _parted(lines, group)] if most else best


def _gutters(lines: Sequence[Line]) -> Iterator[float]:
    """Yield where columns may begin on the left: where enough lines do, but for one letter."""
    if len(lines) < 2 * LEAST_LINES:
        return
    letter = median(line.height for line in lines)
    starts = sorted(line.left for line in lines)
    at = 0
    while at < len(starts):
        end = at
        while end < len(starts) and starts[end] <= starts[at] + letter:
            end += 1
        if at and end - at >= LEAST_LINES:
            yield starts[at]
        at = end


def _split(lines: Sequence[Line], down: list[int], gutter: float) -> tuple[int, list[list[int]]]:
    """Return how many lines stand in columns on both sides of ``gutter``, and all in groups."""
    groups: list[list[int]] = [[]]
    count = 0
    for across, left, right in _bands(lines, down, gutter):
        groups[-1] += across
        if _are_columns(lines, left, right, gutter):
            groups += [left, right, []]
            count += len(left) + len(right)
        else:  # rows, like what reaches across
            groups[-1] += sorted(left + right, key=lambda index: lines[index].middle)
    return count, [group for group in groups if group]


def _bands(lines: Sequence[Line], down: list[int], gutter: float) -> Iterator[_Band]:
    """Yield a line that reaches across ``gutter``, and what stands left and right of it below."""
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
    if min(len(left), len(right)) < LEAST_LINES:
        return False
    space = GUTTER * median(lines[index].height for index in left)
    apart = max(lines[index].right for index in left) + space <= gutter
    filled = apart and _reads_down(lines, left) and _reads_down(lines, right)
    return filled and not _are_rows(lines, left, right)


def _are_rows(lines: Sequence[Line], left: list[int], right: list[int]) -> bool:
    """Whether each line has a counterpart on the other side, with room below, as cells have."""
    height = median(lines[index].height for index in left)
    sides = [sorted(lines[index].middle for index in side) for side in (left, right)]
    for own, other in (sides, sides[::-1]):
        if any(min(abs(y - each) for each in other) > ALIKE * height for y in own):
            return False
    steps = (below - above for above, below in pairwise(sides[0]))
    return median([step for step in steps if step > ALIKE * height] or [0.0]) > AIRY * height


def _reads_down(lines: Sequence[Line], side: list[int]) -> bool:
    """Whether the lines are one column, or several beside each other."""
    lengths = [lines[index].right - lines[index].left for index in side]
    width = max(lines[i].right for i in side) - min(lines[i].left for i in side)
    usual, height = median(lengths), median(lines[index].height for index in side)
    if usual >= LONG * height and usual >= FULL * width:
        return True
    return len(_parted(lines, side)) > 1
