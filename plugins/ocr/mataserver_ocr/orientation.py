"""Turns: lines of text that lie on a side or stand on their head, read the right way up.

A recogniser reads lines that stand upright, and writes something for others too, at times with
a high score: it takes "and" on its head for "pup". So three things say which way a line stands:
a classifier of upside-down lines, the recogniser's own score, and the lines around it.
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

UPRIGHT, CLOCKWISE, HEAD, COUNTER = 0, 1, 2, 3
"""How a line is turned in the picture; so many quarter turns counter-clockwise set it upright."""
LONG = 2.5
"""From here on, a box this many times longer than high shows along which axis its text runs."""
TALL = 1.5
"""A short box that is so many times as high as wide holds a line that lies on its side."""
WINDOW = 4
"""The classifier is shown the first so many heights of a line; it would squeeze a longer one."""
SURE = 0.9
"""A score of the recogniser that needs no second look, if the rest agrees."""
CLEAR = 0.5
"""How far (0 to 1) the classifier must lean to one side to count."""
NEIGHBOURS = 4
"""How many of the nearest lines say how a line stands that could be either."""
BY_CLASSIFIER, BY_NEIGHBOURS = 0.3, 0.25
"""What both weigh beside the difference of two scores."""
HABIT = 0.5
"""How far a line without neighbours is taken for upright."""


class Reading(NamedTuple):
    """What a line says, how sure that is (0 to 1), and how it is turned."""

    text: str
    score: float
    turn: int


@dataclass(slots=True, eq=False)
class _Line:
    """A line before it is read.

    long:     whether its box shows its axis.
    telling:  whether it has enough letters for the classifier to be believed.
    weight:   how far (0 to 1) it is believed about a shorter one.
    base:     the turn that leaves open only whether it stands on its head: UPRIGHT or CLOCKWISE.
    lean:     -1 turned by 180 degrees from ``base``, 1 not at all; in between unsure.
    expected: the same, by the lines around it.
    """

    quad: Quad
    long: bool
    telling: bool
    weight: float
    base: int
    lean: float = 0.0
    expected: float = HABIT


class Reader:
    """Reads the lines of a page, each the right way up."""

    def __init__(self, recognise: Recognise, classify: Classify) -> None:
        """Keep both networks.

        ``recognise`` returns text and score (0 to 1) of the picture of an upright line;
        ``classify`` returns for pictures the probabilities that they stand on their head.
        """
        self._recognise = recognise
        self._classify = classify

    def read(self, page: Image, found: Quad) -> list[Reading]:
        """Return what each of the quads ``[n, 4, 2]`` says."""
        lines = _lines(found)
        middles = found.mean(axis=1)
        _set_axes(lines, middles)
        self._lean(page, lines)
        _expect(lines, middles)
        return [self._best(quads.cut_out(page, line.quad), line) for line in lines]

    def _lean(self, page: Image, lines: Sequence[_Line]) -> None:
        """Ask the classifier about each line, where that may not do about the line turned too."""
        for line in lines:
            start = _window(page, line)
            [turned] = self._classify([start])
            line.lean = 1 - 2 * turned
            if abs(line.lean) < SURE or not line.telling:
                [back] = self._classify([np.ascontiguousarray(np.rot90(start, 2))])
                line.lean = (back - turned) * line.weight

    def _best(self, picture: Image, line: _Line) -> Reading:
        """Read a line as it seems to stand, and the other way if anything speaks against that."""
        likely = line.lean if abs(line.lean) >= CLEAR else line.expected or line.lean
        first = self._one(picture, (line.base + (HEAD if likely < 0 else UPRIGHT)) % 4)
        agreed = line.lean * line.expected > 0 or (line.telling and abs(line.lean) >= SURE)
        if first.score >= SURE and agreed and abs(line.lean) >= CLEAR:
            return first
        second = self._one(picture, (first.turn + HEAD) % 4)
        best = _likelier(first, second, line)
        if best.score >= SURE or line.long:
            return best
        across = [self._one(picture, (best.turn + turn) % 4) for turn in (CLOCKWISE, COUNTER)]
        other = max(across, key=lambda each: each.score)
        return other if other.score > best.score + 1 - SURE else best

    def _one(self, picture: Image, turn: int) -> Reading:
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
    """Let short lines run along the axis of the long ones around them."""
    known = [index for index, line in enumerate(lines) if line.long]
    for index, line in enumerate(lines):
        if not line.long and known:
            near = _nearest(middles, index, known)
            on_side = sum(lines[each].base == CLOCKWISE for each in near)
            line.base = CLOCKWISE if 2 * on_side > len(near) else UPRIGHT


def _expect(lines: Sequence[_Line], middles: NDArray[np.float64]) -> None:
    """Tell each line how the clear ones around it on the same axis stand, best by long ones."""
    for axis in (UPRIGHT, CLOCKWISE):
        alike = [index for index, line in enumerate(lines) if line.base == axis]
        clear = [index for index in alike if abs(lines[index].lean) >= CLEAR]
        for index in alike:
            near = _nearest(middles, index, [each for each in clear if lines[each].long])
            near = near or _nearest(middles, index, clear)
            if near:
                lines[index].expected = sum(lines[each].lean for each in near) / len(near)


def _nearest(middles: NDArray[np.float64], index: int, among: Sequence[int]) -> list[int]:
    """Return which of the lines ``among`` lie nearest to line ``index``, itself left out."""
    others = np.array([each for each in among if each != index], int)
    far = np.linalg.norm(middles[others] - middles[index], axis=1)
    return [int(each) for each in others[np.argsort(far, kind="stable")[:NEIGHBOURS]]]


def _window(page: Image, line: _Line) -> Image:
    """Return the start of a line, turned as if it did not stand on its head."""
    width, height = quads.size(line.quad)
    share = min(1.0, WINDOW * min(width, height) / max(width, height, 1.0))
    # Lines on their side begin at the top when they are turned clockwise.
    return np.ascontiguousarray(
        np.rot90(quads.cut_out(page, quads.part(line.quad, 0.0, share)), line.base)
    )


def _likelier(first: Reading, second: Reading, line: _Line) -> Reading:
    """Return the likelier one of two readings, of which one stands on the other's head."""
    up, down = (first, second) if first.turn == line.base else (second, first)
    for_up = up.score - down.score + BY_CLASSIFIER * line.lean + BY_NEIGHBOURS * line.expected
    return up if for_up >= 0 else down


def reading_order(found: Quad, read: Sequence[Reading]) -> list[int]:
    """Return the indexes of lines in reading order.

    Lines that are turned alike are ordered together, as if the page were set upright for them;
    those that have the most letters come first.
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
    """Return the reading order of quads that are all turned alike, as if they were upright."""
    x, y = found.mean(axis=1).T
    along, down = {UPRIGHT: (x, y), CLOCKWISE: (y, -x), HEAD: (-x, -y), COUNTER: (-y, x)}[turn]
    sizes = np.array([quads.size(quad) for quad in found])
    lengths, heights = sizes.T[::-1] if turn in {CLOCKWISE, COUNTER} else sizes.T
    slope = _slope(found, turn, lengths)
    middles = np.stack([along + slope * down, down - slope * along], axis=1)
    return regions.reading_order(middles.tolist(), heights.tolist(), lengths.tolist())


def _slope(found: Quad, turn: int, lengths: NDArray[np.float64]) -> float:
    """Return how far the lines of a page fall, in pixels a pixel: the median of the longer half.

    Short ones tell little: their boxes' corners are whole pixels.
    """
    # The upper and the lower side of each box, of a line that lies on a side in its own terms.
    starts, ends = (
        (found[:, [0, 1]], found[:, [3, 2]]) if turn % 2 else (found[:, [0, 3]], found[:, [1, 2]])
    )
    way = (ends - starts).mean(axis=1)
    rise, run = (-way[:, 0], way[:, 1]) if turn % 2 else (way[:, 1], way[:, 0])
    longer = lengths >= np.median(lengths)
    return float(np.median(rise[longer] / np.maximum(run[longer], 1.0)))
