"""The score of the Image Matching Challenge 2025, against known poses.

A submission's scenes are matched with the true ones; the camera centers of each are aligned with
the true ones by the best similarity, and those within thresholds count. The score is the harmonic
mean of that accuracy (mAA) and of the scenes' purity (clusterness).
"""

from __future__ import annotations

import csv
import io
import itertools
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mataserver_reconstruct.verdicts import OUTLIERS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Places = NDArray[np.float64]

SKIPPED = 2
"""Thresholds at the start of a list that do not count."""

_FIXED = 3  # a similarity fits three cameras exactly, so they do not count
_MOST_TRIPLETS = 20_000


class Score(NamedTuple):
    """A score and its parts, each 0 to 1."""

    maa: float
    clusterness: float
    score: float


class Row(NamedTuple):
    """A photograph's scene and camera center ``[3]``; nan without a pose."""

    scene: str
    centre: Places


def read(text: str) -> dict[str, Row]:
    """Return a CSV's photographs by name; raise ``KeyError`` or ``ValueError`` if malformed."""
    rows = {}
    for line in csv.DictReader(io.StringIO(text)):
        rotation = np.array(line["rotation_matrix"].split(";"), float).reshape(3, 3)
        translation = np.array(line["translation_vector"].split(";"), float)
        rows[line["image"]] = Row(line["scene"], -rotation.T @ translation)
    return rows


def score(
    found: Mapping[str, Row],
    truth: Mapping[str, Row],
    thresholds: Mapping[str, Sequence[float]],
) -> Score:
    """Return the score; ``thresholds`` are those of each true scene, in its units, ascending."""
    clusters = _scenes(found)
    taken, hits, possible = set(), 0.0, 0
    overlap, size = 0, 0
    for name, members in _scenes(truth).items():
        steps = thresholds[name][SKIPPED:]
        best = max(
            (
                (len(members & own), _hits(members & own, found, truth, steps), label)
                for label, own in clusters.items()
            ),
            default=(0, 0.0, ""),
        )
        hits += best[1]
        possible += max(0, len(members) - _FIXED) * len(steps)
        if best[0]:
            taken.add(best[2])
            overlap += best[0]
            size += len(clusters[best[2]])
    maa = hits / possible if possible else 0.0
    clusterness = overlap / size if size else 0.0
    both = maa + clusterness
    return Score(maa, clusterness, 2 * maa * clusterness / both if both else 0.0)


def _scenes(rows: Mapping[str, Row]) -> dict[str, set[str]]:
    scenes: dict[str, set[str]] = defaultdict(set)
    for name, row in rows.items():
        if row.scene != OUTLIERS:
            scenes[row.scene].add(name)
    return dict(scenes)


def _hits(
    names: set[str],
    found: Mapping[str, Row],
    truth: Mapping[str, Row],
    steps: Sequence[float],
) -> float:
    """Return the cameras within each threshold, summed, less the three that always are."""
    posed = sorted(name for name in names if np.isfinite(found[name].centre).all())
    if len(posed) < _FIXED:
        return 0.0
    own = np.array([found[name].centre for name in posed])
    true = np.array([truth[name].centre for name in posed])
    errors = _errors(own, true)
    return float(sum(_within(errors, own, true, step) for step in steps))


def _errors(own: Places, true: Places) -> Places:
    """Return the distances under the similarity of each triplet of cameras, ``[t, n]``."""
    triplets = list(itertools.combinations(range(len(own)), 3))
    if len(triplets) > _MOST_TRIPLETS:
        triplets = triplets[:: len(triplets) // _MOST_TRIPLETS + 1]
    return np.array([_distances(own, true, list(each)) for each in triplets])


def _within(errors: Places, own: Places, true: Places, step: float) -> int:
    inside = errors < step
    best = inside[inside.sum(axis=1).argmax()]
    count = int(best.sum())
    if count >= _FIXED:
        refined = _distances(own, true, np.flatnonzero(best).tolist())
        count = max(count, int((refined < step).sum()))
    return max(0, count - _FIXED)


def _distances(own: Places, true: Places, at: list[int]) -> Places:
    """Return each camera's distance when those at ``at`` are aligned with the true ones."""
    turn, shift, scale = similarity(own[at], true[at])
    distances: Places = np.linalg.norm(scale * own @ turn.T + shift - true, axis=1)
    return distances


def similarity(own: Places, true: Places) -> tuple[Places, Places, float]:
    """Return the best rotation, shift and scale from positions to others (Umeyama 1991)."""
    middle, target = own.mean(axis=0), true.mean(axis=0)
    left, strength, right = np.linalg.svd((true - target).T @ (own - middle))
    sign = np.ones(3)
    sign[2] = np.sign(np.linalg.det(left) * np.linalg.det(right)) or 1.0
    turn = left * sign @ right
    spread = float(((own - middle) ** 2).sum())
    scale = float(strength @ sign) / spread if spread > 0 else 1.0
    return turn, target - scale * turn @ middle, scale
