"""Which pairs of photographs are matched: every one of a few, the likely ones of many.

Likely are neighbours in the order of their names, as one walks, and those that have most in common
at a glance: of their largest features alone, the mutual nearest ones that pass Lowe's ratio test
(preemptive matching, Wu 2013). It costs a small part of a whole match and needs no vocabulary.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    Descriptors = NDArray[np.float32]

NEIGHBOURS, ALIKE = 5, 40
"""How many of those behind it, and of those most alike, a photograph is matched with."""
GLANCE = 256
"""Features that are looked at."""
FEWEST = 3
"""Features that two photographs have in common at a glance, to be alike."""
_RATIO = 0.8
_AT_ONCE = 64  # photographs that one is compared with in one product: 16 MB


def every(files: Sequence[str]) -> list[tuple[str, str]]:
    """Return every pair."""
    return list(itertools.combinations(files, 2))


def likely(
    files: Sequence[str],
    descriptors: Sequence[Descriptors],
    told: Callable[[int], None] = lambda _: None,
) -> list[tuple[str, str]]:
    """Return the pairs that are likely to overlap, in order.

    ``descriptors`` are those of each photograph's largest features, ``[n, d]`` of length 1 each.
    ``told`` is told how many photographs were compared.
    """
    count = len(files)
    pairs = {(at, at + by) for at in range(count) for by in range(1, NEIGHBOURS + 1)}
    pairs = {pair for pair in pairs if pair[1] < count}
    common = np.zeros((count, count), np.int64)
    for at, row in enumerate(_compared(_stacked(descriptors))):
        common[at, at + 1 :] = common[at + 1 :, at] = row
        told(at + 1)
    for at in range(count):
        row = common[at]
        best = np.argsort(-row, kind="stable")[:ALIKE]
        pairs |= {(min(at, int(b)), max(at, int(b))) for b in best if row[b] >= FEWEST}
    return [(files[first], files[second]) for first, second in sorted(pairs)]


def largest(keypoints: NDArray[np.float32], descriptors: NDArray[np.uint8]) -> Descriptors:
    """Return the descriptors of the largest features, each of length 1.

    ``keypoints`` are COLMAP's: x, y, and a scale or an affine shape, ``[n, 4]`` or ``[n, 6]``.
    """
    affine = keypoints.shape[1] == 6
    shape = keypoints[:, 2:6].reshape(-1, 2, 2) if affine else None
    size = keypoints[:, 2] if shape is None else np.abs(np.linalg.det(shape))
    chosen = descriptors[np.argsort(-size, kind="stable")[:GLANCE]].astype(np.float32)
    length = np.maximum(np.linalg.norm(chosen, axis=1, keepdims=True), 1e-9)
    return np.asarray(chosen / length, np.float32)


def _stacked(descriptors: Sequence[Descriptors]) -> Descriptors:
    """Return descriptors as ``[photographs, GLANCE, d]``; where there are fewer, zeros."""
    width = max((each.shape[1] for each in descriptors if each.size), default=1)
    whole = np.zeros((len(descriptors), GLANCE, width), np.float32)
    for place, each in zip(whole, descriptors, strict=True):
        if each.size:
            place[: len(each)] = each[:GLANCE]
    return whole


def _compared(whole: Descriptors) -> Iterator[NDArray[np.int64]]:
    """Yield of each photograph what it has in common with each one behind it."""
    for at, one in enumerate(whole):
        rest = whole[at + 1 :]
        parts = [rest[begin : begin + _AT_ONCE] for begin in range(0, len(rest), _AT_ONCE)]
        yield np.concatenate([np.empty(0, np.int64), *(_common(one, part) for part in parts)])


def _common(one: Descriptors, others: Descriptors) -> NDArray[np.int64]:
    """Return how many features of one each of the others has, ``[n, d]`` and ``[m, n, d]``."""
    count, size, width = others.shape
    likeness = (one @ others.reshape(-1, width).T).reshape(len(one), count, size)
    best, of_other = likeness.argmax(axis=2), likeness.max(axis=0)
    first = np.take_along_axis(likeness, best[..., None], 2)[..., 0]
    np.put_along_axis(likeness, best[..., None], -1.0, 2)
    second = likeness.max(axis=2)
    mutual = first == of_other[np.arange(count)[None], best]
    # Of vectors of length 1 the squared distance is 2 - 2 cos.
    clear = (1 - first) < _RATIO**2 * (1 - second)
    return np.asarray((mutual & clear).sum(axis=0), np.int64)
