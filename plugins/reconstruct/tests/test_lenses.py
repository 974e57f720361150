"""Long lenses: what the EXIF tells of them is believed."""

from __future__ import annotations

import numpy as np
import pytest
from rendered import look, looking, photograph, save, scene
from test_reconstruct import errors

pytestmark = [pytest.mark.timeout(300), pytest.mark.long]

SIZE = (480, 360)


def taken(source, equivalent, told):
    """Write photographs of a lens whose EXIF tells what is given; return their poses."""
    quads, rng, poses = scene(3, 6), np.random.default_rng(1), {}
    focal = equivalent / 36 * SIZE[0]
    source.mkdir()
    away = np.array([5.2, 5.2, 2.4]) * focal / (1.1 * SIZE[0])
    for number in range(9):
        angle = 0.15 * number
        pose = looking(away * [np.cos(angle), np.sin(angle), 1], [0, 0, 0.5])
        name = f"{number}.jpg"
        save(source / name, photograph(look(quads, pose, SIZE, focal)[0], SIZE, rng), told)
        poses[name] = pose
    return poses


@pytest.mark.parametrize("equivalent", [600, 1_200])
def test_a_long_lens(begin, tmp_path, equivalent):
    """A subject far away gives the model that a near one gives, and no advice.

    COLMAP believes in no lens of over 360 mm by itself: it assumed one of 40, and bent the model.
    """
    source = tmp_path / "photos"
    poses = taken(source, equivalent, equivalent)
    end = begin(source, tmp_path / "out", max_keypoints=1500).end()
    assert end.how == "done", end.why
    assert (end.figures["n_registered"], end.figures["advice"]) == (len(poses), [])
    off, turn = errors(tmp_path / "out", poses)
    assert off.max() < 0.02
    assert turn[2] == pytest.approx([0, 0, 1], abs=0.02)


def test_another_lens_than_exif_tells(begin, tmp_path):
    """The photographs show one of 40 mm: the model is right, and what EXIF tells is not."""
    poses = taken(tmp_path / "photos", 40, 200)
    end = begin(tmp_path / "photos", tmp_path / "out", max_keypoints=1500).end()
    assert end.how == "done", end.why
    assert end.figures["n_registered"] == len(poses)
    assert "their EXIF tells 200 mm" in " ".join(end.figures["advice"])
