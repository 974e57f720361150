"""Strips: detects lines on pages far longer than a detector takes, in overlapping strips.

A detector sees a picture at a bounded size; the letters of a page that is much taller or wider
would vanish. Such a page is split into overlapping strips with a page's proportions. Lines that two
strips show count once, lines that a border cuts are joined, and letters too large for any strip are
detected on the whole page, scaled down.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mataserver import BadRequest
from mataserver_ocr import quads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from mataserver_ocr.quads import Image, Quad

    Find = Callable[[Image], Quad]
    Span = tuple[int, int]

PROPORTION = 1.5
"""A strip's length in widths of the page, as a sheet of paper's."""
MAX_WHOLE = 1.5
"""The length in strips above which a page is split."""
MAX_STRIPS = 100
"""The maximum strips of a page: each is a run of the detector, within one step of the worker."""
OVERLAP = 1 / 8
"""The share of a strip's length: lines up to this height are completely inside one strip."""
BORDER = 3
"""The distance from a border, in the detector's pixels, within which a line counts as cut."""
SAME_LINE = 0.6
"""The shared part of the smaller one from which two quads of different strips are one line."""
WHOLE_PAGE = -1
"""The strip index of a line that was detected on the whole page."""
INFINITE = 1e6
"""A coordinate beyond every page, in pixels."""
SMALL_PRINT_SHARE = 0.2
"""The share of a large box that small print fills from which the box is not a large line."""
MIN_LINE_HEIGHT = 32
"""The least height of a box, in the detector's pixels, that counts on the scaled-down page.

The detector's boxes are higher than the letters, and never lower than a dozen pixels.
"""


def strip_length(height: int, width: int, side: int) -> int:
    """Return the maximum length of a page's strips; of a page that is not split its own.

    ``side`` is the largest side that the detector takes, in pixels.
    """
    long, short = max(height, width), min(height, width)
    strip = max(side, math.ceil(PROPORTION * short))
    return strip if long > MAX_WHOLE * strip else long


def spans(long: int, strip: int) -> list[Span]:
    """Return start and end of strips, at most ``strip`` long, that cover 0 to ``long`` evenly."""
    overlap = round(OVERLAP * strip)
    count = max(1, math.ceil((long - overlap) / (strip - overlap)))
    even = math.ceil((long + (count - 1) * overlap) / count)
    return [
        (start, start + even)
        for start in (i * (long - even) // max(1, count - 1) for i in range(count))
    ]


def find_lines(page: Image, find: Find, side: int) -> Quad:
    """Return the quads ``[n, 4, 2]`` of the lines of a page, each line once, unordered.

    ``find`` returns the quads ``[n, 4, 2]`` of a picture, which it scales to at most ``side``
    pixels a side. Raises ``BadRequest`` for a page that needs more than ``MAX_STRIPS``.
    """
    height, width = page.shape[:2]
    strip = strip_length(height, width, side)
    if strip >= max(height, width):
        return find(page)
    tall = height > width
    borders = spans(max(height, width), strip)
    if len(borders) > MAX_STRIPS:
        raise BadRequest(
            f"image: {width}x{height} pixels are too long for their width: "
            f"the text would be searched in over {MAX_STRIPS} parts"
        )
    found = _in_strips(page, find, borders, strip / side, tall=tall)
    large = _large(page, find, side, OVERLAP * strip, tall=tall)
    return _deduplicated(found, large, borders, tall=tall)


def search(page: Image, find: Find, strip: int, side: int, *, tall: bool) -> Quad:
    """Return what ``find`` finds in strips of at most ``strip`` pixels, each line once.

    The strips lie below each other if ``tall``, else side by side.
    """
    borders = spans(page.shape[0 if tall else 1], strip)
    found = _in_strips(page, find, borders, strip / side, tall=tall)
    return _deduplicated(found, [], borders, tall=tall)


@dataclass(frozen=True, slots=True, eq=False)
class _Line:
    """A line as one strip shows it; ``cut`` where a border of the strip cuts it."""

    quad: Quad
    strip: int
    cut: bool


def _in_strips(
    page: Image, find: Find, borders: Sequence[Span], scale: float, *, tall: bool
) -> list[_Line]:
    edge = BORDER * max(1.0, scale)
    return [
        line
        for index, span in enumerate(borders)
        for line in _in_strip(page, find, index, span, edge, tall=tall)
    ]


def _in_strip(
    page: Image, find: Find, index: int, span: Span, edge: float, *, tall: bool
) -> Iterable[_Line]:
    start, end = span
    picture = page[start:end] if tall else page[:, start:end]
    if picture.min() == picture.max():  # blank
        return
    last = page.shape[0 if tall else 1]
    for quad in find(picture) + ((0, start) if tall else (start, 0)):
        places = quad[:, int(tall)]
        cut = (start > 0 and places.min() < start + edge) or (
            end < last and places.max() > end - edge
        )
        yield _Line(quad, index, bool(cut))


def _large(page: Image, find: Find, side: int, overlap: float, *, tall: bool) -> list[Quad]:
    """Return lines longer than the overlap of two strips, in letters that survive scaling."""
    import cv2

    height, width = page.shape[:2]
    scale = side / max(height, width)
    small = cv2.resize(
        page,
        (max(1, round(width * scale)), max(1, round(height * scale))),
        interpolation=cv2.INTER_AREA,
    )
    return [
        quad / scale
        for quad in find(np.asarray(small, np.uint8))
        if min(quads.size(quad)) >= MIN_LINE_HEIGHT and np.ptp(quad[:, int(tall)]) > overlap * scale
    ]


def _deduplicated(
    found: Sequence[_Line], large: Sequence[Quad], borders: Sequence[Span], *, tall: bool
) -> Quad:
    """Return each line once: large ones, whole ones, and those joined from pieces."""
    known = _KnownLines()
    for quad in large:
        line = _Line(quad, WHOLE_PAGE, cut=False)
        if not _is_small_print(line, found):
            known.add(line)
    for line in sorted(found, key=lambda each: quads.area(each.quad), reverse=True):
        if not line.cut and not known.contains(line):
            known.add(line)
    pieces = [
        line
        for line in found
        if line.cut
        and not known.contains(line)
        and not _is_whole_in_neighbour(line, borders, tall=tall)
    ]
    whole = list(known.lines())
    # In the next strip a cut line may be split at a gap, and its rest looks whole there.
    rest = {line for line in whole if _is_rest(line, pieces, borders, tall=tall)}
    every = [line.quad for line in whole if line not in rest]
    every += _join([*pieces, *rest], borders, tall=tall)
    return np.array(every, np.float64).reshape(-1, 4, 2)


def _is_rest(line: _Line, pieces: Sequence[_Line], borders: Sequence[Span], *, tall: bool) -> bool:
    """Whether a whole line is the rest of a piece in the previous or next strip."""
    return any(
        _continues_as(piece, line, borders, tall=tall)
        or _continues_as(line, piece, borders, tall=tall)
        for piece in pieces
    )


def _is_small_print(large: _Line, found: Sequence[_Line]) -> bool:
    """Whether a large line on the whole page is really several lines of small print."""
    x1, y1, x2, y2 = _box(large.quad)
    small = 0.0
    for line in found:
        left, top, right, bottom = _box(line.quad)
        if (
            left < x2
            and right > x1
            and top < y2
            and bottom > y1
            and not _same_letter_height(line, large)
        ):
            small += quads.intersection_area(line.quad, large.quad)
    return small > SMALL_PRINT_SHARE * quads.area(large.quad)


def _is_whole_in_neighbour(piece: _Line, borders: Sequence[Span], *, tall: bool) -> bool:
    """Whether a neighbouring strip contains all of a cut line, and so detects it better."""
    low, high = piece.quad[:, int(tall)].min(), piece.quad[:, int(tall)].max()
    before = piece.strip > 0 and high <= borders[piece.strip - 1][1]
    behind = piece.strip < len(borders) - 1 and low >= borders[piece.strip + 1][0]
    return before or behind


class _KnownLines:
    """The lines that were accepted already, by strip."""

    def __init__(self) -> None:
        self._strips: dict[int, list[_Line]] = defaultdict(list)

    def add(self, line: _Line) -> None:
        self._strips[line.strip].append(line)

    def lines(self) -> Iterator[_Line]:
        for each in self._strips.values():
            yield from each

    def contains(self, line: _Line) -> bool:
        """Whether a line of another strip is the same: most of the smaller one, or of a piece."""
        x1, y1, x2, y2 = _box(line.quad)
        own = quads.area(line.quad)
        for index, other in self._others(line.strip):
            left, top, right, bottom = _box(other.quad)
            if left < x2 and right > x1 and top < y2 and bottom > y1:
                least = own if line.cut else min(own, quads.area(other.quad))
                if quads.intersection_area(line.quad, other.quad) >= SAME_LINE * least and (
                    index != WHOLE_PAGE or _same_letter_height(line, other)
                ):
                    return True
        return False

    def _others(self, strip: int) -> Iterator[tuple[int, _Line]]:
        """Yield the lines of the whole page, and those of the strips that overlap ``strip``."""
        for index in (WHOLE_PAGE, strip - 1, strip + 1):
            for line in self._strips.get(index, ()):
                yield index, line


def _same_letter_height(line: _Line, large: _Line) -> bool:
    """Whether the letters of two lines have about the same height; a piece's height is unknown."""
    own, other = (min(quads.size(each.quad)) for each in (line, large))
    return line.cut or own >= other / 2


def _join(pieces: Sequence[_Line], borders: Sequence[Span], *, tall: bool) -> list[Quad]:
    """Return the lines composed of ``pieces``, each in a strip of its own."""
    lines: list[list[_Line]] = []
    for piece in sorted(pieces, key=lambda each: each.strip):
        ways = (each for each in lines if _continues_as(each[-1], piece, borders, tall=tall))
        line = next(ways, None)
        if line is None:
            lines.append([piece])
        else:
            line.append(piece)
    return [
        quads.min_area_box(np.concatenate([each.quad for each in line]))
        if len(line) > 1
        else line[0].quad
        for line in lines
    ]


def _continues_as(last: _Line, piece: _Line, borders: Sequence[Span], *, tall: bool) -> bool:
    """Whether ``piece`` continues ``last`` in the next strip: they agree in the strips' overlap."""
    if last.strip == WHOLE_PAGE or last.strip != piece.strip - 1:
        return False
    start, end = borders[piece.strip][0], borders[last.strip][1]
    box = np.array([[start, -INFINITE], [end, -INFINITE], [end, INFINITE], [start, INFINITE]])
    overlap = box[:, ::-1] if tall else box
    one, other = (quads.intersection(each.quad, overlap) for each in (last, piece))
    least = min(quads.area(one), quads.area(other))
    return least > 0 and quads.intersection_area(one, other) >= SAME_LINE * least


def _box(quad: Quad) -> tuple[float, float, float, float]:
    """Return the upright box around a quad."""
    (x1, y1), (x2, y2) = quad.min(axis=0), quad.max(axis=0)
    return x1, y1, x2, y2
