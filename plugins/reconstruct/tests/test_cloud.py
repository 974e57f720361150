"""Clouds: what is taken out, what is thinned, how it is set upright and written."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import rendered

from mataserver_reconstruct import formats, level
from mataserver_reconstruct.cloud import Cloud, has_neighbours, reliable_points, voxel_downsample
from mataserver_reconstruct.model import Model, View

RNG = np.random.default_rng(7)


def scene(count=4000):
    """Return a ground at z = 0 and a tower on it, ``[n, 3]``."""
    ground = np.c_[RNG.uniform(-4, 4, (count, 2)), RNG.normal(0, 0.005, count)]
    tower = np.c_[RNG.uniform(-0.5, 0.5, (count // 4, 2)), RNG.uniform(0, 3, count // 4)]
    return np.r_[ground, tower]


def model(xyz, poses, errors=0.5, tracks=4):
    """Return a model of points and poses."""
    none = np.empty(0)
    views = [
        View(str(at), p.rotation, p.translation, np.eye(3), 0.0, (1, 1), none, none)
        for at, p in enumerate(poses)
    ]
    count = len(xyz)
    rgb = np.full((count, 3), 99, np.uint8)
    return Model(0, 0, views, xyz, rgb, np.full(count, errors), np.full(count, tracks))


def around(count, height=2.5):
    """Return poses on a circle that look at its middle."""
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    places = [np.array([5 * np.cos(a), 5 * np.sin(a), height]) for a in angles]
    return [rendered.looking(place, [0, 0, 0.5]) for place in places]


def turned(seed):
    """Return some rotation."""
    found, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return found * np.sign(np.linalg.det(found))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [3, 12])
def test_a_model_is_set_upright(seed, count):
    """Whatever way a model lies, z is up afterwards and its ground at 0; views see the same."""
    xyz = scene()
    lying = model(xyz, around(12)[:count]).transformed(turned(seed), RNG.normal(size=3), 1.7)
    upright = level.level_model(lying, 0)
    assert np.abs(upright.xyz[:4000, 2]).max() < 0.1
    assert upright.xyz[4000:, 2].max() > 4
    assert (upright.centres[:, 2] > 3).all()
    for before, after in zip(lying.views, upright.views, strict=True):
        seen = lying.xyz[:9] @ before.rotation.T + before.translation
        again = upright.xyz[:9] @ after.rotation.T + after.translation
        assert np.allclose(seen, again)


def above(yaw, pitch, rng):
    """Return the pose of a drone's camera that looks down by ``pitch``; it never hangs quite so."""
    yaw, pitch = np.radians(np.array([yaw, pitch]) + rng.normal(0, 2, 2))
    ahead = np.array([np.sin(yaw) * np.cos(pitch), np.cos(yaw) * np.cos(pitch), -np.sin(pitch)])
    right = np.array([np.cos(yaw), -np.sin(yaw), 0])
    rotation = np.stack([right, np.cross(ahead, right), ahead])
    return rendered.Pose(rotation, -rotation @ [*rng.uniform(-4, 4, 2), 9.0])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    ("yaws", "pitch"),
    [
        ([0] * 4 + [180] * 4, 90),  # to and fro, as surveys are flown
        ([0] * 4 + [180] * 4 + [0] * 4, 90),
        ([0] * 4 + [180] * 4, 80),
        ([0] * 4 + [180] * 4 + [90] * 4 + [270] * 4, 90),  # crosswise
        (range(0, 360, 31), 90),  # by hand
        (range(0, 360, 31), -75),  # a ceiling
    ],
)
def test_cameras_that_look_down_tell_what_is_up(yaws, pitch, seed):
    """The up axes of a drone's cameras cancel each other or say nothing: it is not upside down."""
    rng = np.random.default_rng(seed)
    rotations = np.array([above(yaw, pitch, rng).rotation for yaw in yaws])
    assert level.up(rotations)[2] > np.cos(np.radians(10))
    turn = turned(seed)
    assert level.up(rotations @ turn.T) @ turn[:, 2] > np.cos(np.radians(10))


def test_a_survey_by_a_drone_is_set_upright():
    """Its ground is at 0, below the cameras, whatever way it lay."""
    rng = np.random.default_rng(1)
    lying = model(scene(), [above(yaw, 90, rng) for yaw in [0] * 5 + [180] * 4])
    upright = level.level_model(lying.transformed(turned(3), RNG.normal(size=3), 0.3), 0)
    assert np.abs(upright.xyz[:4000, 2]).max() < 0.03
    assert (upright.centres[:, 2] > 2.5).all()


def test_without_a_ground_the_cameras_tell_what_is_up():
    """Level cameras that look all ways say what is up, though they look down."""
    lying = model(RNG.normal(size=(500, 3)), around(9)).transformed(turned(1), np.zeros(3), 1.0)
    upright = level.level_model(lying, 0)
    assert np.abs(np.array([view.rotation[0, 2] for view in upright.views])).max() < 0.02
    assert all(view.rotation[1, 2] < 0 for view in upright.views)


@pytest.mark.parametrize("count", [0, 1, 2, 10, 49])
def test_the_smallest_models_are_set_upright(count):
    """A model of next to nothing is no error."""
    found = level.level_model(model(RNG.normal(size=(count, 3)), around(3)), 0)
    assert np.isfinite(found.xyz).all()


def test_strays_are_taken_out():
    """Points far away or by themselves go, those of surfaces stay."""
    xyz = np.r_[scene(), RNG.uniform((-8, -8, 12), (8, 8, 28), (40, 3)), [[1e6, 0, 0]]]
    keep = has_neighbours(xyz)
    assert keep[:5000].mean() > 0.98
    assert keep[5000:].mean() < 0.2
    assert not keep[-1]


def test_uncertain_points_are_taken_out():
    """Points with a large error, and where there are views enough those of two of them, go."""
    xyz = scene(400)
    assert not reliable_points(model(xyz, around(12), errors=2.5)).any()
    assert not reliable_points(model(xyz, around(12), tracks=2)).any()
    assert reliable_points(model(xyz, around(3), tracks=2)).mean() > 0.9


def test_a_voxel_keeps_the_mean_of_its_points():
    """Points of one voxel become one, with their mean place and colour."""
    xyz = np.array([[0, 0, 0], [0.2, 0, 0], [5, 5, 5]], float)
    rgb = np.array([[0, 0, 0], [100, 50, 255], [9, 9, 9]], np.uint8)
    found = voxel_downsample(Cloud(xyz, rgb), 1.0, 100)
    assert found.xyz.tolist() == [[0.1, 0, 0], [5, 5, 5]]
    assert found.rgb.tolist() == [[50, 25, 128], [9, 9, 9]]


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_thinning_knows_no_scale(scale):
    """A cloud keeps as many points in whatever unit it is: its voxel is a part of its extent."""
    xyz = np.random.default_rng(1).uniform(-1, 1, (20_000, 3))
    found = voxel_downsample(
        Cloud(xyz * scale, np.zeros((20_000, 3), np.uint8)), None, 10**6, part=0.05
    )
    assert 1_000 < len(found.xyz) < 12_000
    same = voxel_downsample(Cloud(xyz, np.zeros((20_000, 3), np.uint8)), None, 10**6, part=0.05)
    assert len(found.xyz) == pytest.approx(len(same.xyz), rel=0.01)


def test_a_cloud_has_at_most_so_many_points():
    """The voxel grows until the limit is kept, and not far beyond."""
    xyz = RNG.uniform(-1, 1, (50_000, 3)) * [1, 1, 0]
    found = voxel_downsample(Cloud(xyz, np.zeros((50_000, 3), np.uint8)), None, 5_000)
    assert 1_500 < len(found.xyz) <= 5_000


def read_ply(data):
    """Return the places and colours of a binary PLY."""
    head, _, body = data.partition(b"end_header\n")
    assert head.startswith(b"ply\nformat binary_little_endian 1.0\nelement vertex ")
    kind = [(n, t) for n, t in zip("xyzrgb", ["<f4"] * 3 + ["u1"] * 3, strict=True)]
    points = np.frombuffer(body, kind)
    assert f"element vertex {len(points)}\n".encode() in data
    return np.c_[points["x"], points["y"], points["z"]], np.c_[
        points["r"], points["g"], points["b"]
    ]


def test_ply_and_glb_hold_the_cloud():
    """Both files hold every point with its colour; in GLB y is up, and colours are linear."""
    cloud = Cloud(RNG.normal(size=(57, 3)), RNG.integers(0, 256, (57, 3)).astype(np.uint8))
    xyz, rgb = read_ply(formats.ply(cloud))
    assert np.allclose(xyz, cloud.xyz, atol=1e-6)
    assert (rgb == cloud.rgb).all()
    data = formats.glb(cloud)
    assert struct.unpack("<4sII", data[:12]) == (b"glTF", 2, len(data))
    size = struct.unpack("<I", data[12:16])[0]
    document = json.loads(data[20 : 20 + size])
    places = np.frombuffer(data, "<f4", 57 * 3, 20 + size + 8).reshape(-1, 3)
    assert np.allclose(places[:, 1], cloud.xyz[:, 2], atol=1e-6)
    assert document["buffers"][0]["byteLength"] == len(data) - 28 - size == 57 * 24
    assert np.allclose(document["accessors"][0]["max"], places.max(axis=0))
    linear = np.frombuffer(data, "<f4", 57 * 3, 20 + size + 8 + places.nbytes).reshape(-1, 3)
    # As viewers bring it to a screen: the curve of IEC 61966-2-1.
    shown = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert (np.round(shown * 255) == cloud.rgb).all()
