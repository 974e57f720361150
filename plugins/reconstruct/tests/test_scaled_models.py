"""Models of metres from start to end: by GPS, and by a length that is clicked afterwards."""

from __future__ import annotations

import json

import numpy as np
import planted_scene
import pytest
import rendered
from PIL import Image
from places import place

pytestmark = pytest.mark.long

TEN = 10.0
"""Metres that a unit of the rendered scene is taken for."""


def degrees(value):
    """Return an angle as EXIF has it."""
    whole = abs(value)
    minutes = (whole - int(whole)) * 60
    return (float(int(whole)), float(int(minutes)), (minutes - int(minutes)) * 60)


def tagged(scene, folder):
    """Copy the photographs of a scene and write where they were taken."""
    folder.mkdir()
    for name, pose in scene.poses.items():
        latitude, longitude, _ = place(pose.centre[:2] * TEN)
        with Image.open(scene.photos / name) as picture:
            exif = picture.getexif()
            exif.get_ifd(0x8825).update(
                {1: "N", 2: degrees(latitude), 3: "E", 4: degrees(longitude)}
            )
            exif.get_ifd(0x8769)
            picture.save(folder / name, quality=95, exif=exif)
    return folder


def metres_between(scene, at, marks):
    """Return how far apart is what a photograph shows at two pixels, by the truth."""
    with np.load(scene.truth) as truth:
        depths, rotation, shift = (truth[n][at] for n in ("depths", "rotations", "translations"))
    focal, centre = rendered.FOCAL * max(planted_scene.SIZE), np.array(planted_scene.SIZE) / 2
    rays = np.c_[(marks + 0.25 - centre) / focal, np.ones(2)]
    world = (rays * depths[marks[:, 1], marks[:, 0]][:, None] - shift) @ rotation
    return float(np.linalg.norm(world[0] - world[1])) * TEN


def clicked(folder, at):
    """Return what somebody would click who knows a length: two pixels where the model is, apart."""
    view = json.loads((folder / "cameras.json").read_text())[0]["views"][at]
    _, _, rest = next(folder.glob("*.ply")).read_bytes().partition(b"end_header\n")
    points = np.frombuffer(rest, [("xyz", "<f4", 3), ("rgb", "u1", 3)])["xyz"]
    local = points @ np.array(view["rotation"]).T + view["translation"]
    pixels = local[:, :2] / local[:, 2:] * view["focal"] + view["centre"]
    pixels = pixels[((pixels > 20) & (pixels < np.array(planted_scene.SIZE) - 20)).all(axis=1)]
    ends = [pixels[:, 0].argmin(), pixels[:, 0].argmax()]
    return view["image"], pixels[ends].astype(int)


def camera_distances(folder, scene):
    """Return how far apart the first and the last camera are, in the result and in truth."""
    (poses,) = json.loads((folder / "cameras.json").read_text())
    stood = {
        view["image"]: -np.array(view["rotation"]).T @ view["translation"]
        for view in poses["views"]
    }
    first, *_, last = sorted(stood)
    true = np.linalg.norm(scene.poses[first].centre - scene.poses[last].centre) * TEN
    return np.linalg.norm(stood[first] - stood[last]), true


def test_gps_makes_a_model_of_metres(scene, begin, tmp_path):
    """Cameras stand as far apart as they did, and the figures and the report say so."""
    source = tagged(scene, tmp_path / "in")
    end = begin(source, tmp_path / "out", scale="gps", camera="single").end()
    assert end.how == "done", end.why
    (cluster,) = end.figures["clusters"]
    assert (cluster["unit"], cluster["scale_error"] < 0.1) == ("metre", True)
    found, true = camera_distances(tmp_path / "out", scene)
    assert found == pytest.approx(true, rel=0.05)
    assert "is in metres, by GPS, to about" in end.figures["advice"][-1]
    assert "Its unit is the metre, by GPS" in (tmp_path / "out" / "report.html").read_text()


def test_a_length_that_is_clicked_afterwards(scene, begin, tmp_path):
    """The same once more with a length is in metres, and nothing is matched again for it."""
    out = tmp_path / "out"
    end = begin(scene.photos, out, camera="single").end()
    assert end.figures["clusters"][0]["unit"] is None
    assert "Its unit is arbitrary" in (out / "report.html").read_text()
    name, marks = clicked(out, 2)
    metres = metres_between(scene, sorted(scene.poses).index(name), marks)
    one, two = (f"{name}:{x},{y}" for x, y in marks.tolist())
    again = begin(scene.photos, out, camera="single", scale=f"{one} {two} {metres:.3f}")
    end = again.end()
    assert end.figures["clusters"][0]["unit"] == "metre", end.figures["advice"]
    assert not [step for step in again.steps if step.message.startswith("matches of")]
    found, true = camera_distances(out, scene)
    assert found == pytest.approx(true, rel=0.05)
