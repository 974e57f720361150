"""Resizes maps as ``torch.nn.functional.interpolate(align_corners=False)`` does, with numpy.

Each direction is a weighted sum of a few rows or columns (two for bilinear, four for bicubic with a
= -0.75, Keys 1981); pixels outside equal the nearest one inside.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Size = tuple[int, int]
    Map = NDArray[np.float32]
    Line = NDArray[np.float32]

_A = -0.75
_BLOCK_BYTES = 256 * 1024


class Taps(NamedTuple):
    """The source pixels of each new one, ``[n, k]``, and their weights, ``[n, k]``."""

    places: NDArray[np.intp]
    weights: NDArray[np.float32]

    def of(self, pixels: slice | NDArray[np.intp]) -> Taps:
        """Return those of some of the new pixels."""
        return Taps(self.places[pixels], self.weights[pixels])


def positions(new: int, old: int) -> Line:
    """Return the centers of ``new`` pixels on the grid of ``old`` ones, whose first is at 0.

    In float32 throughout, as torch computes them.
    """
    scale = np.float32(old) / np.float32(new)
    line: Line = scale * (np.arange(new, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5)
    return line


def linear(at: Line, old: int) -> Taps:
    """Return the two neighbours of each position."""
    inside = np.clip(at, 0, old - 1)
    first = np.floor(inside).astype(np.intp)
    rest = inside - first.astype(np.float32)
    places = np.stack([first, np.minimum(first + 1, old - 1)], axis=1)
    return Taps(places, np.stack([1 - rest, rest], axis=1))


def cubic(at: Line, old: int) -> Taps:
    """Return the four neighbours of each position."""
    first = np.floor(at).astype(np.intp)
    rest = (at - first.astype(np.float32))[:, None]
    distance = np.abs(rest - np.arange(-1, 3, dtype=np.float32))
    near = ((_A + 2) * distance - (_A + 3)) * distance**2 + 1
    far = ((distance - 5) * distance + 8) * distance * _A - 4 * _A
    weights = np.where(distance <= 1, near, far)
    places = np.clip(first[:, None] + np.arange(-1, 3), 0, old - 1)
    return Taps(places, weights)


def resample_columns(values: Map, columns: Taps) -> Map:
    """Resample the columns of a map ``[h, w]``."""
    parts = (values.take(places, axis=1) * weights for places, weights in _by_tap(columns))
    first = next(parts)
    return sum(parts, start=first)


def resample_rows(values: Map, rows: Taps) -> Map:
    """Resample the rows of a map ``[h, w]``."""
    made: Map = np.zeros((len(rows.places), values.shape[1]), np.float32)
    for places, weights in _by_tap(rows):
        part = values[places]
        part *= weights[:, None]
        made += part
    return made


def blocks(rows: Taps, width: int) -> Iterator[tuple[slice, Taps]]:
    """Split new rows of ``width`` pixels into blocks that fit the CPU's cache."""
    step = max(1, _BLOCK_BYTES // (4 * width))
    for start in range(0, len(rows.places), step):
        piece = slice(start, start + step)
        yield piece, rows.of(piece)


def sample(values: Map, rows: Taps, columns: Taps) -> Map:
    """Resample a map ``[h, w]`` to ``[len(rows), len(columns)]``.

    Columns come first: the map still has few rows, and rows can then be copied as a whole.
    """
    wide = resample_columns(values, columns)
    made: Map = np.empty((len(rows.places), len(columns.places)), np.float32)
    for piece, part in blocks(rows, len(columns.places)):
        made[piece] = resample_rows(wide, part)
    return made


def sample_at(values: Map, rows: Taps, columns: Taps) -> Map:
    """Resample maps ``[h, w, C]`` at ``n`` pixels: ``[n, C]``, with the results of ``sample``."""
    made: Map = np.zeros((len(rows.places), values.shape[2]), np.float32)
    for above, share in _by_tap(rows):
        wide: Map = np.zeros_like(made)
        for beside, weights in _by_tap(columns):
            part = values[above, beside]
            part *= weights[:, None]
            wide += part
        wide *= share[:, None]
        made += wide
    return made


def _by_tap(taps: Taps) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float32]]]:
    return zip(taps.places.T, taps.weights.T, strict=True)


def bilinear(values: Map, size: Size) -> Map:
    """Resize a map ``[h, w]`` to ``size`` (height, width)."""
    if values.shape == size:
        return values
    rows, columns = (
        linear(positions(new, old), old) for new, old in zip(size, values.shape, strict=True)
    )
    return sample(values, rows, columns)


def bicubic(values: Map, size: Size) -> Map:
    """Resize a map ``[h, w]`` to ``size`` (height, width)."""
    if values.shape == size:
        return values
    rows, columns = (
        cubic(positions(new, old), old) for new, old in zip(size, values.shape, strict=True)
    )
    return sample(values, rows, columns)
