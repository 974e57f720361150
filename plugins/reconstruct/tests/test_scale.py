"""How large a model is: by GPS, by a length that is known, and when neither tells it."""

from __future__ import annotations

import re

import numpy as np
import pytest
import rendered
from places import LONGITUDE, place

from mataserver import BadRequest, InvalidParams
from mataserver_reconstruct import outcome, scale
from mataserver_reconstruct.exif import Exif
from mataserver_reconstruct.model import Model, View
from mataserver_reconstruct.photos import Photo
from mataserver_reconstruct.spec import Length, Mark, Spec, parse_length, read


def earth_centred(latitude, longitude):
    """Return where a place is, in metres from the earth's centre (WGS 84)."""
    wide, flat = 6_378_137.0, 1 / 298.257223563
    north, east = np.radians([latitude, longitude])
    squared = flat * (2 - flat)
    normal = wide / np.sqrt(1 - squared * np.sin(north) ** 2)
    across = normal * np.cos(north)
    up = normal * (1 - squared) * np.sin(north)
    return np.array([across * np.cos(east), across * np.sin(east), up])


def photo(name, gps=None, **fields):
    """Return a photograph that was taken somewhere."""
    size = {"width": 800, "height": 600, "original": (800, 600)}
    return Photo(
        **{"name": name, "path": name, "file": name, "exif": Exif(gps=gps)} | size | fields
    )


def model(centres, factor=1.0, turn=0.0, rng=None):
    """Return a model whose cameras stood at ``centres``, in another unit and turned."""
    spin = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    empty = np.empty(0)
    views = [
        View(
            f"{at}.jpg", np.eye(3), -(spin @ centre) / factor, np.eye(3), 0.0, (1, 1), empty, empty
        )
        for at, centre in enumerate(centres)
    ]
    xyz = (rng or np.random.default_rng(0)).normal(size=(60, 3))
    rgb, ones = np.zeros((60, 3), np.uint8), np.ones(60)
    return Model(0, 0, views, xyz, rgb, ones, ones)


def walked(count, metres, seed):
    """Return where a person stood who walked around within so many metres, ``[n, 3]``."""
    rng = np.random.default_rng(seed)
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    circle = np.c_[np.cos(angles), np.sin(angles), np.zeros(count)] * metres / 2
    return circle + rng.normal(0, metres / 50, (count, 3)) * [1, 1, 0.1]


@pytest.mark.parametrize("latitude", [0.0, -33.9, 47.0, 78.2])
@pytest.mark.parametrize("longitude", [-70.0, 179.9999])
def test_metres_are_those_of_the_ellipsoid(latitude, longitude):
    """Distances of positions are true to the millimetre, near the equator and the pole as well."""
    places = [(latitude, longitude), (latitude + 0.001, longitude), (latitude, longitude + 0.002)]
    wrapped = [(north, (east + 180) % 360 - 180, 30.0) for north, east in places]
    photos = [photo(f"{at}.jpg", wrapped[at % 3]) for at in range(6)]
    true = np.array([earth_centred(*each) for each in places])
    legs = [float(np.linalg.norm(true[at] - true[0])) for at in (1, 2)]
    plan = np.array([[0, 0, 0], [0, legs[0], 0], [legs[1], 0, 0]])
    found, _ = scale.apply_scale(model(plan[[0, 1, 2, 0, 1, 2]] / 7), photos, "gps")
    size = np.linalg.norm(found.centres[1:3] - found.centres[0], axis=1)
    assert size == pytest.approx(legs, rel=1e-5)
    assert found.centres[1, 1] - found.centres[0, 1] == pytest.approx(legs[0], rel=1e-4)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("noise", "strays"), [(0.0, 0), (1.0, 0), (1.0, 3)])
@pytest.mark.parametrize("longitude", [LONGITUDE, 179.9999])
def test_gps_tells_metres_and_north(seed, noise, strays, longitude):
    """Whatever a model's unit and way, it is in metres to what is told; x is east, y north."""
    rng = np.random.default_rng(seed)
    centres = walked(16, 80, seed)
    seen = centres[:, :2] + rng.normal(0, noise, (16, 2))
    seen[:strays] += 300
    photos = [photo(f"{at}.jpg", place(each, longitude=longitude)) for at, each in enumerate(seen)]
    factor = float(rng.uniform(0.01, 100))
    found, said = scale.apply_scale(model(centres, factor, 2.0, rng), photos, "gps")
    assert "cluster0_model0 is in metres, by GPS, to about" in said
    assert found.scale.error < scale.MAX_ERROR
    shape = found.centres - found.centres[0]
    truth = centres - centres[0]
    off = np.linalg.norm(shape - truth, axis=1).max() / np.linalg.norm(truth, axis=1).max()
    assert off < 2 * max(found.scale.error, 0.005)  # its turn is off as well
    assert np.allclose(found.views[3].rotation @ found.views[3].rotation.T, np.eye(3))


@pytest.mark.parametrize("count", [4, 5, 6, 7, 8, 12, 24])
def test_the_told_error_is_that_of_the_scale(count):
    """In 19 of 20 sets the scale is right to what is told, also where few positions tell it."""
    rng, right = np.random.default_rng(5), 0
    for seed in range(100):
        centres = walked(count, 60, seed)
        photos = [
            photo(f"{at}.jpg", place(each[:2] + rng.normal(0, 1.0, 2)))
            for at, each in enumerate(centres)
        ]
        found, _ = scale.apply_scale(model(centres), photos, "gps")
        size = np.linalg.norm(found.centres - found.centres.mean(axis=0))
        true = np.linalg.norm(centres - centres.mean(axis=0))
        right += abs(size / true - 1) < found.scale.error
    assert right >= 90


@pytest.mark.parametrize(
    ("metres", "noise", "told", "why"),
    [
        (80, 0.0, 3, "3 of its photographs tell by GPS"),
        (80, 0.0, 0, "0 of its photographs tell by GPS"),
        (1, 0.0, 16, "GPS is too coarse"),
        (10, 4.0, 16, "GPS is too coarse"),
        (0, 0.0, 16, "the cameras stood within 0.0 m, which tells no scale"),
        (80, 400.0, 16, "do not fit how its cameras stand"),
    ],
)
def test_gps_that_tells_no_scale_is_refused(metres, noise, told, why):
    """With too few positions, or too coarse ones, a model stays as it is, and why is said."""
    rng = np.random.default_rng(1)
    centres = walked(16, metres, 1)
    photos = [
        photo(f"{at}.jpg", place(each[:2] + rng.normal(0, noise, 2)) if at < told else None)
        for at, each in enumerate(centres)
    ]
    given = model(centres, 7.0)
    found, said = scale.apply_scale(given, photos, "gps")
    assert found is given
    assert said.startswith("cluster0_model0 has no scale: ")
    assert why in said


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize(
    ("count", "metres", "noise", "stray", "why"),
    [
        (4, 60, 5.0, 0, "GPS is too coarse"),
        (5, 60, 5.0, 0, "GPS is too coarse"),
        (8, 60, 5.0, 0, "GPS is too coarse"),
        (12, 60, 5.0, 0, "GPS is too coarse"),
        (16, 10, 3.0, 100, "GPS is too coarse"),
        (4, 80, 400.0, 0, "do not fit how its cameras stand"),
        (8, 80, 400.0, 0, "do not fit how its cameras stand"),
    ],
)
def test_coarse_positions_are_not_called_wrong(seed, count, metres, noise, stray, why):
    """Whether they are wrong is told by how far they are off, not by how far apart they are."""
    rng = np.random.default_rng(seed)
    centres = walked(count, metres, seed)
    seen = centres[:, :2] + rng.normal(0, noise, (count, 2))
    seen[0] += stray
    photos = [photo(f"{at}.jpg", place(each)) for at, each in enumerate(seen)]
    found, said = scale.apply_scale(model(centres, 7.0), photos, "gps")
    assert found.scale or why in said
    within = re.search("within ([0-9.]+) m", said)
    assert within is None or float(within[1]) < metres + 8 * noise


@pytest.mark.parametrize("count", [4, 5])
def test_few_good_positions_tell_metres(count):
    """Two of four fit exactly, and beside them the third and fourth are no outliers."""
    rng = np.random.default_rng(7)
    for seed in range(30):
        centres = walked(count, 100, seed)
        seen = centres[:, :2] + rng.normal(0, 1.0, (count, 2))
        photos = [photo(f"{at}.jpg", place(each)) for at, each in enumerate(seen)]
        found, said = scale.apply_scale(model(centres, 7.0), photos, "gps")
        assert found.scale, said
        size = np.ptp(found.centres[:, :2], axis=0).sum() / np.ptp(centres[:, :2], axis=0).sum()
        assert size == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    ("axes", "told", "up"),
    [
        ([0, 1], 12, [0, 0, -1]),  # a drone that looks down: the model's y axis is south
        ([0, 2], 12, [0, -1, 0]),  # who walks before a wall, to and fro
        ([0, 1], 5, [0, -1, 0]),  # too few positions
    ],
    ids=["drone", "wall", "few"],
)
def test_gps_tells_who_looks_down(axes, told, up):
    """Cameras that all look one way look ahead or down: their positions fit the plan of one."""
    rng = np.random.default_rng(3)
    seen = rng.uniform(-30, 30, (12, 3))
    centres = seen + rng.normal(0, 0.5, (12, 3))
    photos = [
        photo(f"{at}.jpg", place([x, -y] if axes[1] == 1 else [x, y]) if at < told else None)
        for at, (x, y) in enumerate(seen[:, axes])
    ]
    assert scale.up(model(centres, 7.0), photos) @ up > np.cos(np.radians(12))


@pytest.mark.parametrize("axis", [None, 1, 2], ids=["one place", "upright", "ahead"])
def test_cameras_whose_plan_is_a_point_have_no_scale(axis):
    """Cameras at one place, or in a line that is a point from above, at some pitch or at each."""
    centres = np.zeros((6, 3))
    if axis is not None:
        centres[:, axis] = np.arange(6)
    photos = [photo(f"{at}.jpg", place([8.0 * at, 0])) for at in range(6)]
    given = model(centres, 7.0)
    found = scale.up(given, photos)
    assert np.linalg.norm(found) == pytest.approx(1.0)
    if axis is None:
        np.testing.assert_allclose(found, [0, -1, 0], atol=1e-9)  # as without GPS
    standing = np.zeros((6, 3))
    standing[:, 2] = centres.sum(axis=1)
    scaled, said = scale.apply_scale(model(standing, 7.0), photos, "gps")
    assert scaled.scale is None
    assert "GPS is too coarse" in said


@pytest.mark.parametrize("pitch", [30, 60, 80])
def test_gps_tells_how_far_they_look_down(pitch):
    """A drone that never turned and looks obliquely: up is neither theirs nor opposite to it."""
    rng = np.random.default_rng(3)
    flown = np.c_[rng.uniform(-30, 30, (12, 2)), rng.normal(0, 0.3, 12)]
    turn = np.radians(90 + pitch)  # of the world, whose z is up, to cameras that look ahead
    tilt = np.array([[1, 0, 0], [0, np.cos(turn), -np.sin(turn)], [0, np.sin(turn), np.cos(turn)]])
    photos = [photo(f"{at}.jpg", place(each[:2])) for at, each in enumerate(flown)]
    found = scale.up(model(flown @ tilt.T, 7.0), photos)
    assert found @ tilt[:, 2] > np.cos(np.radians(12))


def test_names_in_any_form_of_unicode():
    """A file that macOS named u and two dots is found as ü is typed, its twin by its own name."""
    apart, composed = photo("u\u0308.jpg"), photo("\u00fc.jpg", file="a.jpg")
    scale.check(Spec(scale="\u00fc.jpg:1,2 u\u0308.jpg:3,4 5"), [apart])
    pose = rendered.looking(np.array([4.0, 1.0, 2.0]), [0, 0, 0.5])
    xyz = np.random.default_rng(3).normal(0, 0.2, (50, 3)) + np.array([0, 0, 0.5])
    view, ones = seen_by(pose, xyz, 0.0), np.ones(50)
    given = Model(0, 0, [view], xyz, np.zeros((50, 3), np.uint8), ones, ones)
    one, two = (f"{x:.1f},{y:.1f}" for x, y in view.keypoints[:2])
    _, said = scale.apply_scale(given, [apart, composed], f"\u00fc.jpg:{one} \u00fc.jpg:{two} 2")
    assert said == "cluster0_model0 is in metres, by length."


def test_one_position_for_all_is_refused():
    """A phone that tells the same place for every photograph tells no scale."""
    centres = walked(16, 80, 1)
    photos = [photo(f"{at}.jpg", place([0, 0])) for at in range(16)]
    found, said = scale.apply_scale(model(centres), photos, "gps")
    assert (found.scale, "GPS is too coarse" in said) == (None, True)


def seen_by(pose, xyz, distortion):
    """Return a view of points by a camera of 800 by 600 whose lens bends."""
    local = xyz @ pose.rotation.T + pose.translation
    flat = local[:, :2] / local[:, 2:]
    bent = flat * (1 + distortion * (flat**2).sum(axis=1, keepdims=True))
    matrix = np.array([[880.0, 0, 400], [0, 880.0, 300], [0, 0, 1]])
    keypoints = (bent * 880 + [400, 300]).astype(np.float32)
    points = np.arange(len(xyz))
    return View(
        "a.jpg", pose.rotation, pose.translation, matrix, distortion, (800, 600), keypoints, points
    )


@pytest.mark.parametrize("distortion", [0.0, -0.15])
def test_a_known_length_tells_metres(distortion):
    """A length between two marks, in pixels of an original that is larger, scales the model."""
    pose = rendered.looking(np.array([4.0, 1.0, 2.0]), [0, 0, 0.5])
    grid = np.stack(np.meshgrid(np.linspace(-1, 1, 21), np.linspace(-1, 1, 21)), -1).reshape(-1, 2)
    xyz = np.c_[grid, np.zeros(len(grid))]
    view = seen_by(pose, xyz, distortion)
    ones = np.ones(len(xyz))
    given = Model(0, 0, [view], xyz, np.zeros((len(xyz), 3), np.uint8), ones, ones)
    one, two = 3, 400
    marks = [f"a.jpg:{x * 2 + 3:.2f},{y * 2 - 3:.2f}" for x, y in view.keypoints[[one, two]]]
    true = np.linalg.norm(xyz[one] - xyz[two])
    how = f"{marks[0]} {marks[1]} {true * 12:.6f}"
    found, said = scale.apply_scale(given, [photo("a.jpg", original=(1600, 1200))], how)
    assert said == "cluster0_model0 is in metres, by length."
    assert np.linalg.norm(found.xyz[one] - found.xyz[two]) == pytest.approx(true * 12, rel=0.02)


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("b.jpg:1,1 a.jpg:400,300 2", "b.jpg has no place in it"),
        ("a.jpg:790,590 a.jpg:400,300 2", "no point of it is near 790,590 of a.jpg"),
        ("a.jpg:400,300 a.jpg:400,300 2", "one place"),
    ],
)
def test_marks_that_tell_no_scale(how, why):
    """A mark in a photograph without a place, or where the model has nothing, is told."""
    pose = rendered.looking(np.array([4.0, 1.0, 2.0]), [0, 0, 0.5])
    xyz = np.random.default_rng(3).normal(0, 0.05, (50, 3)) + np.array([0, 0, 0.5])
    ones = np.ones(50)
    given = Model(0, 0, [seen_by(pose, xyz, 0.0)], xyz, np.zeros((50, 3), np.uint8), ones, ones)
    found, said = scale.apply_scale(given, [photo("a.jpg"), photo("b.jpg")], how)
    assert found is given
    assert why in said


def test_a_length_in_a_photograph_that_is_not_there():
    """It is refused before anything is looked for."""
    asked = Spec(scale="a.jpg:1,2 c.jpg:3,4 5")
    scale.check(Spec(scale="gps"), [])
    with pytest.raises(BadRequest, match=r"no photograph 'c\.jpg'"):
        scale.check(asked, [photo("a.jpg"), photo("c.jpg", file="")])


def test_names_of_every_sort():
    """A name may hold spaces, colons and commas."""
    found = parse_length("my photo: 1,2 of 3.jpg:10,20.5 ü b.jpg:3,4 0.25")
    assert found == Length(Mark("my photo: 1,2 of 3.jpg", 10, 20.5), Mark("ü b.jpg", 3, 4), 0.25)


@pytest.mark.parametrize(
    "wrong", ["", "GPS", "2.5", "a.jpg:1,2 2", "a.jpg:1,2 b.jpg:3,4 0", "a.jpg:-1,2 b.jpg:3,4 1"]
)
def test_what_is_no_scale(wrong):
    """It is refused with what it may be."""
    with pytest.raises(InvalidParams, match="scale: expected none, gps, or a length"):
        read({"scale": wrong})


def test_cameras_are_told_in_pixels_of_the_originals():
    """The shorter side of a working copy is rounded: that does not move the centre of the other."""
    matrix = np.array([[1700.0, 0, 100], [0, 1700.0, 800], [0, 0, 1]])
    empty = np.empty(0)
    view = View("a.jpg", np.eye(3), np.zeros(3), matrix, 0.0, (200, 1600), empty, empty)
    given = photo("a.jpg", width=200, height=1600, original=(1001, 8000))
    told = outcome.camera(view, given)
    assert (told["focal"], told["centre"]) == (8500.0, pytest.approx([500.5, 4000.0]))
