"""Orientation: sideways and upside-down lines of text, rotated upright and read.

A recogniser reads upright lines, and returns text for others too, at times with a high score: it
reads an upside-down "and" as "pup". So three sources decide on a line's orientation: a classifier
of upside-down lines, the recogniser's own score, and the neighbouring lines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mataserver_ocr import quads, regions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from mataserver_ocr.quads import Image, Quad

    Recognise = Callable[[Image], tuple[str, float]]
    Classify = Callable[[list[Image]], list[float]]

UPRIGHT, CLOCKWISE, UPSIDE_DOWN, COUNTERCLOCKWISE = 0, 1, 2, 3
"""A line's rotation: the number of counter-clockwise quarter turns that set it upright."""
LONG = 2.5
"""The aspect ratio from which a box shows the axis of its text."""
TALL = 1.5
"""The ratio of height to width from which a short box holds a sideways line."""
WINDOW = 4
"""The classifier sees the start of a line, so many heights long; it would squeeze a longer one."""
SURE_SCORE = 0.9
"""A score of the recogniser that needs no second reading, if the rest agrees."""
MIN_LEAN = 0.5
"""The classifier's lean (0 to 1) from which it counts."""
NEIGHBOURS = 4
"""How many of the nearest lines decide on an ambiguous one."""
BY_CLASSIFIER, BY_NEIGHBOURS = 0.3, 0.25
"""The weights of both relative to the difference of two scores."""
UPRIGHT_PRIOR = 0.5
"""The expectation for a line without neighbours: rather upright."""


class Reading(NamedTuple):
    """A line's text, its score (0 to 1), and its rotation."""

    text: str
    score: float
    turn: int


@dataclass(slots=True, eq=False)
class _Line:
    """A line before it is read.

    is_long:       whether its box shows its axis.
    is_conclusive: whether it has enough letters for the classifier to be trusted.
    weight:        the classifier's weight (0 to 1) for a shorter one.
    base:          the rotation if the line is not upside down: UPRIGHT or CLOCKWISE.
    lean:          -1 rotated by 180 degrees from ``base``, 1 not rotated; uncertain in between.
    expected:      the same, by the neighbouring lines.
    """

    quad: Quad
    is_long: bool
    is_conclusive: bool
    weight: float
    base: int
    lean: float = 0.0
    expected: float = UPRIGHT_PRIOR


class LineReader:
    """Reads the lines of a page, each rotated upright."""

    def __init__(self, recognise: Recognise, classify: Classify) -> None:
        """Keep both networks.

        ``recognise`` returns text and score (0 to 1) of the picture of an upright line;
        ``classify`` returns the probabilities of pictures to be upside down.
        """
        self._recognise = recognise
        self._classify = classify

    def read(self, page: Image, found: Quad) -> list[Reading]:
        """Return the text of each of the quads ``[n, 4, 2]``."""
        lines = _lines(found)
        middles = found.mean(axis=1)
        _set_axes(lines, middles)
        self._classify_lines(page, lines)
        _set_expectations(lines, middles)
        return [self._best(quads.crop(page, line.quad), line) for line in lines]

    def _classify_lines(self, page: Image, lines: Sequence[_Line]) -> None:
        """Classify each line and, where that is inconclusive, also rotated by 180 degrees."""
        for line in lines:
            start = _window(page, line)
            [turned] = self._classify([start])
            line.lean = 1 - 2 * turned
            if abs(line.lean) < SURE_SCORE or not line.is_conclusive:
                [back] = self._classify([np.ascontiguousarray(np.rot90(start, 2))])
                line.lean = (back - turned) * line.weight

    def _best(self, picture: Image, line: _Line) -> Reading:
        """Read a line in its likely direction, and in the other one if the sources disagree."""
        likely = line.lean if abs(line.lean) >= MIN_LEAN else line.expected or line.lean
        first = self._read_turned(
            picture, (line.base + (UPSIDE_DOWN if likely < 0 else UPRIGHT)) % 4
        )
        agreed = line.lean * line.expected > 0 or (
            line.is_conclusive and abs(line.lean) >= SURE_SCORE
        )
        if first.score >= SURE_SCORE and agreed and abs(line.lean) >= MIN_LEAN:
            return first
        second = self._read_turned(picture, (first.turn + UPSIDE_DOWN) % 4)
        best = _better(first, second, line)
        if best.score >= SURE_SCORE or line.is_long:
            return best
        across = [
            self._read_turned(picture, (best.turn + turn) % 4)
            for turn in (CLOCKWISE, COUNTERCLOCKWISE)
        ]
        other = max(across, key=lambda each: each.score)
        return other if other.score > best.score + 1 - SURE_SCORE else best

    def _read_turned(self, picture: Image, turn: int) -> Reading:
        text, score = self._recognise(np.ascontiguousarray(np.rot90(picture, turn)))
        return Reading(text.strip(), score if text.strip() else 0.0, turn)


def _lines(found: Quad) -> list[_Line]:
    lines = []
    for quad in found:
        width, height = quads.size(quad)
        shape = height / max(width, 1.0)
        length = max(shape, 1 / max(shape, 1e-9))
        base = CLOCKWISE if shape >= TALL else UPRIGHT
        lines.append(_Line(quad, length >= LONG, length >= WINDOW, min(1.0, length / LONG), base))
    return lines


def _set_axes(lines: Sequence[_Line], middles: NDArray[np.float64]) -> None:
    """Give short lines the axis of the long ones around them."""
    known = [index for index, line in enumerate(lines) if line.is_long]
    for index, line in enumerate(lines):
        if not line.is_long and known:
            near = _nearest(middles, index, known)
            on_side = sum(lines[each].base == CLOCKWISE for each in near)
            line.base = CLOCKWISE if 2 * on_side > len(near) else UPRIGHT


def _set_expectations(lines: Sequence[_Line], middles: NDArray[np.float64]) -> None:
    """Set each line's expectation to the mean of the certain ones nearby, preferably long ones."""
    for axis in (UPRIGHT, CLOCKWISE):
        alike = [index for index, line in enumerate(lines) if line.base == axis]
        clear = [index for index in alike if abs(lines[index].lean) >= MIN_LEAN]
        for index in alike:
            near = _nearest(middles, index, [each for each in clear if lines[each].is_long])
            near = near or _nearest(middles, index, clear)
            if near:
                lines[index].expected = sum(lines[each].lean for each in near) / len(near)


def _nearest(middles: NDArray[np.float64], index: int, among: Sequence[int]) -> list[int]:
    """Return which of the lines ``among`` are nearest to line ``index``, excluding itself."""
    others = np.array([each for each in among if each != index], int)
    far = np.linalg.norm(middles[others] - middles[index], axis=1)
    return [int(each) for each in others[np.argsort(far, kind="stable")[:NEIGHBOURS]]]


def _window(page: Image, line: _Line) -> Image:
    """Return the start of a line, rotated as if it were not upside down."""
    width, height = quads.size(line.quad)
    share = min(1.0, WINDOW * min(width, height) / max(width, height, 1.0))
    # Sideways lines begin at the top when they are rotated clockwise.
    return np.ascontiguousarray(
        np.rot90(quads.crop(page, quads.section(line.quad, 0.0, share)), line.base)
    )


def _better(first: Reading, second: Reading, line: _Line) -> Reading:
    """Return the likelier of two readings that differ by 180 degrees."""
    up, down = (first, second) if first.turn == line.base else (second, first)
    for_up = up.score - down.score + BY_CLASSIFIER * line.lean + BY_NEIGHBOURS * line.expected
    return up if for_up >= 0 else down


def reading_order(found: Quad, read: Sequence[Reading]) -> list[int]:
    """Return the indexes of lines in reading order.

    Lines of one rotation are ordered together, as on a page rotated upright for them; the rotation
    with the most letters comes first.
    """
    groups: dict[int, list[int]] = {}
    for index, line in enumerate(read):
        groups.setdefault(line.turn, []).append(index)
    letters = {
        turn: sum(len(read[index].text) for index in group) for turn, group in groups.items()
    }
    return [
        groups[turn][place]
        for turn in sorted(groups, key=lambda turn: -letters[turn])
        for place in _order(found[groups[turn]], turn)
    ]


def _order(found: Quad, turn: int) -> list[int]:
    """Return the reading order of quads of one rotation, as if they were upright."""
    x, y = found.mean(axis=1).T
    along, down = {
        UPRIGHT: (x, y),
        CLOCKWISE: (y, -x),
        UPSIDE_DOWN: (-x, -y),
        COUNTERCLOCKWISE: (-y, x),
    }[turn]
    sizes = np.array([quads.size(quad) for quad in found])
    lengths, heights = sizes.T[::-1] if turn in {CLOCKWISE, COUNTERCLOCKWISE} else sizes.T
    slope = _slope(found, turn, lengths)
    middles = np.stack([along + slope * down, down - slope * along], axis=1)
    return regions.reading_order(middles.tolist(), heights.tolist(), lengths.tolist())


def _slope(found: Quad, turn: int, lengths: NDArray[np.float64]) -> float:
    """Return the slope of the lines of a page: the median of the longer half.

    Short ones are imprecise: their boxes' corners are whole pixels.
    """
    # The start and the end of each box; of a sideways line in its own reading direction.
    starts, ends = (
        (found[:, [0, 1]], found[:, [3, 2]]) if turn % 2 else (found[:, [0, 3]], found[:, [1, 2]])
    )
    way = (ends - starts).mean(axis=1)
    rise, run = (-way[:, 0], way[:, 1]) if turn % 2 else (way[:, 1], way[:, 0])
    longer = lengths >= np.median(lengths)
    return float(np.median(rise[longer] / np.maximum(run[longer], 1.0)))
