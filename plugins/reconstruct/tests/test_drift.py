"""The drift rule."""

from __future__ import annotations

import numpy as np
import pytest

from mataserver_reconstruct import drift, features, measures, shares
from mataserver_reconstruct.exif import Exif


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


def share(part, count=20):
    """Return what holds of a part of an upload's photographs."""
    return [1.0] * round(part * count) + [0.0] * (count - round(part * count))


@pytest.mark.parametrize(
    ("part", "count", "severity"),
    [(0.0, 20, "none"), (0.05, 20, "low"), (0.1, 20, "low"), (0.2, 20, "medium"),
     (1.0, 20, "medium"), (0.25, 8, "low"), (0.5, 8, "medium"), (0.005, 200, "low"),
     (0.01, 200, "low"), (0.04, 200, "medium")],
)  # fmt: skip
def test_a_share_drifts_by_its_size_and_that_of_the_upload(part, count, severity, rng):
    """Of twenty photographs four that cannot be read are drift, of 200 eight; it is never high."""
    baseline = [dataset(rng) | {"unreadable": share(0.0)} for _ in range(25)]
    found = drift.report(dataset(rng) | {"unreadable": share(part, count)}, baseline)
    told = found["checks"]["unreadable"]
    assert told["severity"] == severity, told
    assert told["drift"] == (severity in {"medium", "high"})
    assert told["current"] == pytest.approx(part, abs=0.01)


def test_a_share_that_was_before_is_no_drift(rng):
    """Who sends photographs of two cameras now and then is not told of it each time."""
    baseline = [dataset(rng) | {"main_camera": share(0.5 if at < 2 else 1.0)} for at in range(25)]
    found = drift.report(dataset(rng) | {"main_camera": share(0.6)}, baseline)
    assert found["checks"]["main_camera"]["z"] > 3
    assert found["checks"]["main_camera"]["severity"] == "none"
    fewer = drift.report(dataset(rng) | {"main_camera": share(0.2)}, baseline)
    assert fewer["checks"]["main_camera"]["drift"]


def test_data_sets_without_shares_are_none_of_them(rng):
    """Entries of a version that had no shares are no baseline of them."""
    old = [dataset(rng) for _ in range(25)]
    new = [dataset(rng) | {"duplicate": share(0.0)} for _ in range(19)]
    current = dataset(rng) | {"duplicate": share(1.0)}
    assert "duplicate" not in drift.report(current, old + new)["checks"]
    assert "duplicate" in drift.report(current, [*old, *new, new[0]])["checks"]


def test_what_holds_of_photographs():
    """Duplicates count from the second on, the camera that took most, those that are not read."""
    phone, other = Exif(28.0, "Maker Phone"), Exif(0.0, "Maker Other")
    photographs = [("a", phone), ("b", phone), ("a", phone), ("c", other), ("d", None)]
    rows = list(shares.photo_flags([shares.PhotoFacts(*each) for each in photographs]))
    assert rows[-1] == {"unreadable": 1.0}
    columns = {name: [row.get(name) for row in rows[:4]] for name in features.SHARES}
    assert columns == {
        "unreadable": [0, 0, 0, 0], "duplicate": [0, 0, 1, 0], "exif_focal": [1, 1, 1, 0],
        "main_camera": [1, 1, 1, 0],
    }  # fmt: skip
    assert list(shares.photo_flags([])) == []


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
