"""The drift rule."""

from __future__ import annotations

import numpy as np
import pytest

from mataserver_reconstruct import drift, features, measures


def dataset(rng, count=20, shift=0.0):
    """Return an upload: photographs that resemble each other, around a level of their own."""
    return {
        name: rng.normal(10 + shift + rng.normal(0, 1), 0.5, count).tolist()
        for name in features.NAMES
    }


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def test_new_scenes_are_no_drift(rng):
    """Of many uploads of new scenes like those before, next to none is told as drift."""
    alarms = 0
    for _ in range(60):
        baseline = [dataset(rng) for _ in range(25)]
        alarms += drift.report(dataset(rng), baseline)["drift_detected"]
    assert alarms <= 6


@pytest.mark.parametrize(
    ("shift", "severity"), [(0.0, "low"), (4.5, "medium"), (12.0, "high"), (-12.0, "high")]
)
def test_a_shift_is_told_by_its_size(shift, severity, rng):
    """What lies three deviations away is medium, five high, on either side."""
    baseline = [dataset(rng) for _ in range(40)]
    current = {name: [10 + shift] * 12 for name in features.NAMES}
    found = drift.report(current, baseline)
    assert (found["status"], found["severity"]) == ("ok", severity)
    assert found["drift_detected"] == (severity != "low")
    check = found["checks"]["brightness"]
    assert check["drift"] == (check["z"] >= 3)
    assert check["p_adj"] <= 1


@pytest.mark.parametrize(("datasets", "images"), [(19, 20), (25, 7), (0, 20), (25, 0)])
def test_too_little_is_no_drift(datasets, images, rng):
    """With fewer than 20 data sets or 8 photographs nothing is said, whatever they are."""
    baseline = [dataset(rng) for _ in range(datasets)]
    found = drift.report(dataset(rng, images, shift=50), baseline)
    assert found["status"] == "insufficient_data"
    assert not found["drift_detected"]
    assert (found["severity"], found["checks"]) == ("low", {})


def test_a_feature_that_never_varied(rng):
    """A feature that was always the same drifts when it is another, and is no division by 0."""
    baseline = [dataset(rng) | {"dark_frac": [0.0] * 20} for _ in range(20)]
    same = drift.report(dataset(rng) | {"dark_frac": [0.0] * 20}, baseline)
    other = drift.report(dataset(rng) | {"dark_frac": [0.4] * 20}, baseline)
    assert same["checks"]["dark_frac"]["z"] == 0
    assert other["checks"]["dark_frac"]["severity"] == "high"


@pytest.mark.parametrize(("rate", "drift_told"), [(0.95, False), (0.71, False), (0.6, True)])
def test_a_fall_of_the_registration_rate(rate, drift_told, rng):
    """A registration rate that falls by more than a fifth is drift of its own."""
    baseline = [dataset(rng) for _ in range(30)]
    current = {name: [10.0] * 12 for name in features.NAMES}
    found = drift.report(current, baseline, registration_rate=rate, rates=[0.9] * 30)
    assert found["checks"]["registration_rate"]["drift"] == drift_told
    assert found["drift_detected"] == drift_told


def test_recommendations():
    """Each severity has its text."""
    assert drift.recommendation("low") == "No action needed."
    assert drift.recommendation("medium").startswith("Moderate drift detected.")
    assert drift.recommendation("high").startswith("High drift detected.")


@pytest.mark.parametrize(
    ("change", "moved"),
    [
        (lambda picture: (picture * 0.4).astype(np.uint8), {"brightness", "contrast"}),
        (lambda picture: np.repeat(picture[..., :1], 3, axis=2), {"colourfulness", "saturation"}),
        (lambda picture: picture[:, :100], {"aspect_ratio", "megapixels"}),
        (
            lambda picture: picture.reshape(75, 4, 100, 4, 3).mean((1, 3)).astype(np.uint8),
            {"sharpness", "noise", "megapixels"},
        ),
    ],
)
def test_measures_move_with_what_they_measure(change, moved, rng):
    """Darkening, greying, cropping and smoothing each move the features that stand for it."""
    picture = rng.integers(0, 256, (300, 400, 3), np.uint8)
    before, after = measures.measure(picture), measures.measure(change(picture))
    assert tuple(before) == features.NAMES
    for name in moved:
        assert abs(after[name] - before[name]) > 0.2 * max(abs(before[name]), 0.1), name


def test_the_smallest_picture_is_measured():
    """A picture of one pixel has every measure, and all are finite."""
    found = measures.measure(np.zeros((1, 1, 3), np.uint8))
    assert all(np.isfinite(value) for value in found.values())
