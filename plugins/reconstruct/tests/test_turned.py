"""A camera that was only turned gives no model, though one may fit; a flat thing gives one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import rendered

from mataserver_reconstruct import turned

pytestmark = [pytest.mark.timeout(900), pytest.mark.long]

RNG = np.random.default_rng(1)
AROUND = RNG.normal(size=(9_000, 3))
AROUND *= RNG.uniform(3, 15, (9_000, 1)) / np.linalg.norm(AROUND, axis=1, keepdims=True)
WALL = np.c_[RNG.uniform(-20, 20, 4_000), np.zeros(4_000), RNG.uniform(0, 6, 4_000)]
FIELD = np.c_[RNG.uniform(-20, 20, (6_000, 2)), np.zeros(6_000)]
LENSES = [0.7, 1.1, 1.45]


def pairs(points, poses, focal, told):
    """Return the pairs of photographs of points, whose places are 0.3 of 640 pixels off."""
    seen = []
    for pose in poses:
        local = points @ pose.rotation.T + pose.translation
        places = local[:, :2] / local[:, 2:] * focal
        inside = (local[:, 2] > 0.1) & (np.abs(places) < [0.5, 0.375]).all(axis=1)
        seen.append((places + RNG.normal(0, 0.3 / 640, places.shape), inside))
    both = [
        (one[held & other], two[held & other])
        for (one, held), (two, other) in itertools.combinations(seen, 2)
    ]
    return [
        turned.MovedPair(one, two, told)
        for one, two in both
        if len(one) > 30 and np.median(np.linalg.norm(one - two, axis=1)) > 0.15
    ]


def on_the_spot(focal, step=0.0):
    """Return the poses of somebody who turns, and may take steps."""
    angles = np.arange(0, 4, 0.3 / focal)
    centres = RNG.normal(0, 1, (len(angles), 3)) * step
    ahead = np.c_[np.cos(angles), np.sin(angles), 0.1 * np.sin(3 * angles) - 0.1]
    return [rendered.looking(*each) for each in zip(centres, ahead * 9, strict=True)]


def along(focal, toe):
    """Return the poses of somebody who walks past a wall."""
    across = np.arange(-4, 4, 0.5)
    return [
        rendered.looking(np.array([x, -5 * focal, 2 + 0.3 * np.sin(x)]), (x * toe, 0, 2.5))
        for x in across
    ]


def above(focal):
    """Return the poses of a drone that looks down and sways."""
    found = []
    for x, y in itertools.product(np.arange(-6, 6, 1.5), (-3, 0, 3)):
        sway = RNG.normal(0, 0.3, 2)
        place = np.array([x, y, 8 * focal])
        found.append(rendered.looking(place, (x + sway[0], y + 0.1 + sway[1], 0)))
    return found


@pytest.mark.parametrize("focal", LENSES)
@pytest.mark.parametrize("known", [True, False])
def test_turned_on_the_spot(focal, known):
    """With the focal length of EXIF, which may be a tenth off, or without."""
    told = 1.1 * focal if known else 0.0
    assert turned.is_rotation(pairs(AROUND, on_the_spot(focal), focal, told))


@pytest.mark.parametrize("focal", LENSES)
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    ("points", "poses"),
    [
        (WALL, lambda focal: along(focal, 1.0)),
        (WALL, lambda focal: along(focal, 0.5)),
        (FIELD, above),
        (AROUND, lambda focal: on_the_spot(focal, 0.3)),
    ],
    ids=["past a wall", "around a place", "above a field", "steps aside"],
)
def test_moved(points, poses, focal, known):
    """Who moved is not taken for one who turned, also where all that is seen is flat."""
    found = pairs(points, poses(focal), focal, focal if known else 0.0)
    assert len(found) > 10
    assert not turned.is_rotation(found)


def test_what_tells_nothing():
    """Nothing is concluded without a pair, nor of lenses for which a step looks like a turn."""
    assert not turned.is_rotation([])
    assert not turned.is_rotation(pairs(AROUND, on_the_spot(3.0), 3.0, 3.0))


def test_a_panorama_is_told(begin, tmp_path):
    """COLMAP made a model of all five photographs, which looked right."""
    quads, rng, size = rendered.scene(3, 10), np.random.default_rng(7), (640, 480)
    for at in range(12):
        boxes = rendered.box(np.random.default_rng(100 + at))
        aside = 8 * np.array([np.cos(at / 12 * 6.28), np.sin(at / 12 * 6.28), 0])
        quads += [each._replace(corner=each.corner + aside) for each in boxes]
    (tmp_path / "turn").mkdir()
    place = np.array([0.2, 0.1, 2.5])
    for at, angle in enumerate(2 * np.pi * np.arange(5) / 18):
        pose = rendered.looking(place, place + np.array([np.cos(angle), np.sin(angle), -0.25]))
        seen, _ = rendered.look(quads, pose, size, rendered.FOCAL * 640)
        pixels = rendered.photograph(seen, size, rng)
        rendered.save(tmp_path / "turn" / f"{at}.jpg", pixels, round(rendered.FOCAL * 36))
    end = begin(tmp_path / "turn", tmp_path / "out").end()
    assert end.how == "done", end.why
    assert (end.figures["n_registered"], end.figures["clusters"]) == (0, [])
    assert any("turned on the spot" in sentence for sentence in end.figures["advice"])
    reasons = [each["reason"] for each in end.figures["images"]]
    assert all("the camera was turned and not moved" in reason for reason in reasons)
