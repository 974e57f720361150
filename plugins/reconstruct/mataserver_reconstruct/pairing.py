"""Selects the pairs of photographs to match: all of a few, the likely ones of many.

Likely are neighbours in the order of their names, as in a walk, and those with most in common among
their largest features only: mutual nearest ones that pass Lowe's ratio test (preemptive matching,
Wu 2013). It costs a small part of a whole match and needs no vocabulary.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    Descriptors = NDArray[np.float32]

NEIGHBOURS, MOST_SIMILAR = 5, 40
"""How many of the next photographs, and of the most similar, a photograph is matched with."""
TOP_FEATURES = 256
"""Features that are compared."""
MIN_COMMON = 3
"""The least number of common features of similar photographs."""
_RATIO = 0.8
_BLOCK = 64  # photographs that one is compared with in one product: 16 MB


def all_pairs(files: Sequence[str]) -> list[tuple[str, str]]:
    """Return every pair."""
    return list(itertools.combinations(files, 2))


def likely_pairs(
    files: Sequence[str],
    descriptors: Sequence[Descriptors],
    progress: Callable[[int], None] = lambda _: None,
) -> list[tuple[str, str]]:
    """Return the pairs that are likely to overlap, in order.

    ``descriptors`` are those of each photograph's largest features, ``[n, d]`` of length 1 each.
    ``progress`` gets the number of photographs compared.
    """
    count = len(files)
    pairs = {(at, at + by) for at in range(count) for by in range(1, NEIGHBOURS + 1)}
    pairs = {pair for pair in pairs if pair[1] < count}
    common = np.zeros((count, count), np.int64)
    for at, row in enumerate(_compare(_stack(descriptors))):
        common[at, at + 1 :] = common[at + 1 :, at] = row
        progress(at + 1)
    for at in range(count):
        row = common[at]
        best = np.argsort(-row, kind="stable")[:MOST_SIMILAR]
        pairs |= {(min(at, int(b)), max(at, int(b))) for b in best if row[b] >= MIN_COMMON}
    return [(files[first], files[second]) for first, second in sorted(pairs)]


def largest(keypoints: NDArray[np.float32], descriptors: NDArray[np.uint8]) -> Descriptors:
    """Return the descriptors of the largest features, each of length 1.

    ``keypoints`` are COLMAP's: x, y, and a scale or an affine shape, ``[n, 4]`` or ``[n, 6]``.
    """
    affine = keypoints.shape[1] == 6
    shape = keypoints[:, 2:6].reshape(-1, 2, 2) if affine else None
    size = keypoints[:, 2] if shape is None else np.abs(np.linalg.det(shape))
    chosen = descriptors[np.argsort(-size, kind="stable")[:TOP_FEATURES]].astype(np.float32)
    length = np.maximum(np.linalg.norm(chosen, axis=1, keepdims=True), 1e-9)
    return np.asarray(chosen / length, np.float32)


def _stack(descriptors: Sequence[Descriptors]) -> Descriptors:
    """Return descriptors as ``[photographs, TOP_FEATURES, d]``, padded with zeros."""
    width = max((each.shape[1] for each in descriptors if each.size), default=1)
    whole = np.zeros((len(descriptors), TOP_FEATURES, width), np.float32)
    for place, each in zip(whole, descriptors, strict=True):
        if each.size:
            place[: len(each)] = each[:TOP_FEATURES]
    return whole


def _compare(whole: Descriptors) -> Iterator[NDArray[np.int64]]:
    """Yield the number of features that each photograph has in common with each later one."""
    for at, one in enumerate(whole):
        rest = whole[at + 1 :]
        parts = [rest[begin : begin + _BLOCK] for begin in range(0, len(rest), _BLOCK)]
        yield np.concatenate([np.empty(0, np.int64), *(_common(one, part) for part in parts)])


def _common(one: Descriptors, others: Descriptors) -> NDArray[np.int64]:
    """Return how many features one has in common with each other, ``[n, d]`` and ``[m, n, d]``."""
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
