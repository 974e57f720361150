"""The score of the Image Matching Challenge."""

from __future__ import annotations

import numpy as np
import pytest

from mataserver_reconstruct import imc

RNG = np.random.default_rng(2)
STEPS = (0.01, 0.02, 0.05, 0.1, 0.2)


def places(count=8):
    """Return camera centres around a subject."""
    return RNG.normal(size=(count, 3)) * 3


def rows(scene, centres, prefix=""):
    """Return rows of one scene."""
    return {f"{prefix}{at}": imc.Row(scene, centre) for at, centre in enumerate(centres)}


def transformed(centres):
    """Return the same places in another world."""
    turn, _ = np.linalg.qr(RNG.normal(size=(3, 3)))
    turn *= np.sign(np.linalg.det(turn))
    return 2.7 * centres @ turn.T + [5, -3, 8]


def scored(found, truth, steps=STEPS):
    """Return the score with the same thresholds for every scene."""
    scenes = {row.scene for row in truth.values()}
    return imc.score(found, truth, dict.fromkeys(scenes, steps))


def test_a_perfect_submission_scores_one():
    """The true poses in worlds of their own score 1, whatever the scenes are called."""
    first, second = places(), places()
    truth = rows("s1", first, "a") | rows("s2", second, "b") | rows("outliers", places(2), "o")
    found = rows("cluster1", transformed(first), "a") | rows("cluster0", transformed(second), "b")
    found |= rows("outliers", np.full((2, 3), np.nan), "o")
    assert scored(found, truth) == pytest.approx((1, 1, 1))


def test_an_error_counts_by_the_thresholds():
    """A camera that is off counts at the thresholds above its error; the first two are skipped."""
    centres = places(9)
    off = centres.copy()
    off[0, 0] += 0.15
    steps = (10.0, 10.0, 0.005, 0.01, 1.0)
    found = scored(rows("c", transformed(off)), rows("s", centres), steps)
    assert found.maa == pytest.approx((5 + 5 + 6) / 18)


def test_missing_poses_and_mixed_scenes_cost():
    """Photographs without a pose cost accuracy, those of another scene cost purity."""
    centres = places(10)
    own = transformed(centres)
    own[7:] = np.nan
    assert scored(rows("c", own), rows("s", centres)) == pytest.approx((4 / 7, 1, 8 / 11))
    truth = rows("s", centres) | rows("outliers", places(2), "o")
    mixed = scored(rows("c", transformed(centres)) | rows("c", places(2), "o"), truth)
    assert (mixed.maa, mixed.clusterness) == pytest.approx((1, 10 / 12))


def test_a_mirrored_world_is_none():
    """A reflection is no similarity."""
    centres = places(8)
    assert scored(rows("c", centres * [1, 1, -1]), rows("s", centres)).score < 0.5


def test_nothing_scores_nothing():
    """An empty submission, and two cameras of a scene, score 0."""
    truth = rows("s", places(8))
    assert scored(rows("outliers", np.full((8, 3), np.nan)), truth).score == 0
    assert scored(rows("c", np.r_[places(2), np.full((6, 3), np.nan)]), truth).maa == 0
