"""Strips: pages far longer than a detector of lines takes, searched piece by piece.

A detector sees a picture at a bounded size; the letters of a page that is much taller or wider
would vanish. Such a page is cut into overlapping strips of a page's proportions. Lines that two
strips see count once, lines that a border cuts are joined, and letters too large for any strip
are looked for on the whole page, scaled down.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mataserver_ocr import quads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from mataserver_ocr.quads import Image, Quad

    Find = Callable[[Image], Quad]
    Span = tuple[int, int]

PROPORTION = 1.5
"""A strip's length in widths of the page, as a sheet of paper's."""
FAR = 1.5
"""A page is cut when it is longer than so many strips."""
OVERLAP = 1 / 8
"""Of a strip's length: lines up to this height lie in one strip wholly."""
EDGE = 3
"""A line that ends so many pixels of the detector's before a border is one that it cuts."""
SAME = 0.6
"""Two quads of different strips that share this much of the smaller one are one line."""
WHOLE_PAGE = -1
"""In place of a strip's number: the line was seen on the whole page."""
FAR_AWAY = 1e6
"""Beyond every page, in pixels."""
BLURRED = 0.2
"""Small print that fills so much of a large box shows that the box is no line of large letters."""
READABLE = 32
"""Least height of a box, in the detector's pixels, that counts on the scaled-down page.

The detector's boxes are higher than the letters, and never lower than a dozen pixels."""


def length(height: int, width: int, side: int) -> int:
    """Return how long the strips of a page are at most; a page that is left whole is its own.

    ``side`` is the largest side that the detector takes, in pixels.
    """
    long, short = max(height, width), min(height, width)
    strip = max(side, math.ceil(PROPORTION * short))
    return strip if long > FAR * strip else long


def spans(long: int, strip: int) -> list[Span]:
    """Return start and end of strips, at most ``strip`` long, that cover 0 to ``long`` evenly."""
    overlap = round(OVERLAP * strip)
    count = max(1, math.ceil((long - overlap) / (strip - overlap)))
    even = math.ceil((long + (count - 1) * overlap) / count)
    return [
        (start, start + even)
        for start in (i * (long - even) // max(1, count - 1) for i in range(count))
    ]


def search(page: Image, find: Find, side: int) -> Quad:
    """Return the quads ``[n, 4, 2]`` of the lines of a page, each line once, in no order.

    ``find`` returns the quads ``[n, 4, 2]`` of a picture, which it looks at with at most ``side``
    pixels a side.
    """
    height, width = page.shape[:2]
    strip = length(height, width, side)
    if strip >= max(height, width):
        return find(page)
    tall = height > width
    borders = spans(max(height, width), strip)
    edge = EDGE * max(1.0, strip / side)
    found = [
        line
        for index, (start, end) in enumerate(borders)
        for line in _in_strip(page, find, index, (start, end), edge, tall=tall)
    ]
    large = _large(page, find, side, OVERLAP * strip, tall=tall)
    return _once(found, large, borders, tall=tall)


@dataclass(frozen=True, slots=True, eq=False)
class _Line:
    """A line as one strip shows it; ``cut`` where a border of the strip goes through it."""

    quad: Quad
    strip: int
    cut: bool


def _in_strip(
    page: Image, find: Find, index: int, span: Span, edge: float, *, tall: bool
) -> Iterable[_Line]:
    start, end = span
    picture = page[start:end] if tall else page[:, start:end]
    if picture.min() == picture.max():  # nothing is written there
        return
    last = page.shape[0 if tall else 1]
    for quad in find(picture) + ((0, start) if tall else (start, 0)):
        places = quad[:, int(tall)]
        cut = (start > 0 and places.min() < start + edge) or (
            end < last and places.max() > end - edge
        )
        yield _Line(quad, index, bool(cut))


def _large(page: Image, find: Find, side: int, overlap: float, *, tall: bool) -> list[Quad]:
    """Return lines that reach farther than two strips overlap, in letters that survive scaling."""
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
        if min(quads.size(quad)) >= READABLE and np.ptp(quad[:, int(tall)]) > overlap * scale
    ]


def _once(
    found: Sequence[_Line], large: Sequence[Quad], borders: Sequence[Span], *, tall: bool
) -> Quad:
    """Return each line once: large ones, whole ones, and those joined from pieces."""
    kept = _Kept()
    for quad in large:
        line = _Line(quad, WHOLE_PAGE, cut=False)
        if not _blurred(line, found):
            kept.add(line)
    for line in sorted(found, key=lambda each: quads.area(each.quad), reverse=True):
        if not line.cut and not kept.has(line):
            kept.add(line)
    pieces = [
        line
        for line in found
        if line.cut and not kept.has(line) and not _elsewhere(line, borders, tall=tall)
    ]
    whole = list(kept.lines())
    # In the next strip a cut line may break at a gap, and go on as what looks whole there.
    rest = {line for line in whole if _continues(line, pieces, borders, tall=tall)}
    every = [line.quad for line in whole if line not in rest]
    every += _joined([*pieces, *rest], borders, tall=tall)
    return np.array(every, np.float64).reshape(-1, 4, 2)


def _continues(
    line: _Line, pieces: Sequence[_Line], borders: Sequence[Span], *, tall: bool
) -> bool:
    """Whether a whole line is the rest of a piece that the strip before or behind shows."""
    return any(
        _meet(piece, line, borders, tall=tall) or _meet(line, piece, borders, tall=tall)
        for piece in pieces
    )


def _blurred(large: _Line, found: Sequence[_Line]) -> bool:
    """Whether what looks large on the whole page is several lines of small print."""
    x1, y1, x2, y2 = _box(large.quad)
    small = 0.0
    for line in found:
        left, top, right, bottom = _box(line.quad)
        if left < x2 and right > x1 and top < y2 and bottom > y1 and not _alike(line, large):
            small += quads.shared(line.quad, large.quad)
    return small > BLURRED * quads.area(large.quad)


def _elsewhere(piece: _Line, borders: Sequence[Span], *, tall: bool) -> bool:
    """Whether the strip beside its own shows all of what this one cuts, and so finds it better."""
    low, high = piece.quad[:, int(tall)].min(), piece.quad[:, int(tall)].max()
    before = piece.strip > 0 and high <= borders[piece.strip - 1][1]
    behind = piece.strip < len(borders) - 1 and low >= borders[piece.strip + 1][0]
    return before or behind


class _Kept:
    """The lines that are already known, by strip."""

    def __init__(self) -> None:
        self._strips: dict[int, list[_Line]] = defaultdict(list)

    def add(self, line: _Line) -> None:
        self._strips[line.strip].append(line)

    def lines(self) -> Iterator[_Line]:
        for each in self._strips.values():
            yield from each

    def has(self, line: _Line) -> bool:
        """Whether a line of another strip is the same: most of the smaller one, or of a piece."""
        x1, y1, x2, y2 = _box(line.quad)
        own = quads.area(line.quad)
        for index, other in self._others(line.strip):
            left, top, right, bottom = _box(other.quad)
            if left < x2 and right > x1 and top < y2 and bottom > y1:
                least = own if line.cut else min(own, quads.area(other.quad))
                if quads.shared(line.quad, other.quad) >= SAME * least and (
                    index != WHOLE_PAGE or _alike(line, other)
                ):
                    return True
        return False

    def _others(self, strip: int) -> Iterator[tuple[int, _Line]]:
        """Yield the lines of the whole page, and those of the strips that overlap ``strip``."""
        for index in (WHOLE_PAGE, strip - 1, strip + 1):
            for line in self._strips.get(index, ()):
                yield index, line


def _alike(line: _Line, large: _Line) -> bool:
    """Whether the letters of two lines are about as high; for a piece nobody knows."""
    own, other = (min(quads.size(each.quad)) for each in (line, large))
    return line.cut or own >= other / 2


def _joined(pieces: Sequence[_Line], borders: Sequence[Span], *, tall: bool) -> list[Quad]:
    """Return the lines of which ``pieces`` are parts, each of them in a strip of its own."""
    lines: list[list[_Line]] = []
    for piece in sorted(pieces, key=lambda each: each.strip):
        ways = (each for each in lines if _meet(each[-1], piece, borders, tall=tall))
        line = next(ways, None)
        if line is None:
            lines.append([piece])
        else:
            line.append(piece)
    return [
        quads.around(np.concatenate([each.quad for each in line]))
        if len(line) > 1
        else line[0].quad
        for line in lines
    ]


def _meet(last: _Line, piece: _Line, borders: Sequence[Span], *, tall: bool) -> bool:
    """Whether a piece goes on as another of the next strip: they agree where the strips overlap."""
    if last.strip == WHOLE_PAGE or last.strip != piece.strip - 1:
        return False
    start, end = borders[piece.strip][0], borders[last.strip][1]
    box = np.array([[start, -FAR_AWAY], [end, -FAR_AWAY], [end, FAR_AWAY], [start, FAR_AWAY]])
    overlap = box[:, ::-1] if tall else box
    one, other = (quads.common(each.quad, overlap) for each in (last, piece))
    least = min(quads.area(one), quads.area(other))
    return least > 0 and quads.shared(one, other) >= SAME * least


def _box(quad: Quad) -> tuple[float, float, float, float]:
    """Return the upright box around a quad."""
    (x1, y1), (x2, y2) = quad.min(axis=0), quad.max(axis=0)
    return x1, y1, x2, y2
