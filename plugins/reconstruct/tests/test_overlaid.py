"""Two places that look alike in part become one model that lies on top of itself: that is told."""

from __future__ import annotations

import numpy as np
import pytest
import rendered
from PIL import Image

from mataserver_reconstruct import overlaid
from mataserver_reconstruct.model import Model, View

pytestmark = [pytest.mark.timeout(900), pytest.mark.long]

SIZE = (400, 300)
FOCAL = rendered.FOCAL * max(SIZE)


def place(seed):
    """Return a scene of its own around a box that all have in common."""
    rng = np.random.default_rng(78)
    top, corner = np.array([0, 0, 1.4]), np.array([-0.7, -0.7, 0])
    edges = [np.array(edge) for edge in ([1.4, 0, 0], [0, 1.4, 0], [-1.4, 0, 0], [0, -1.4, 0])]
    faces = [rendered.Quad(corner + top, *edges[:2], rendered.texture(rng, 768))]
    for edge in edges:
        faces.append(rendered.Quad(corner, edge, top, rendered.texture(rng, 768)))
        corner = corner + edge
    return rendered.scene(seed, 4) + faces


def taken(folder, prefix, quads, angles):
    """Write photographs of a scene from the left to the right; return poses and depths by name."""
    folder.mkdir(exist_ok=True)
    rng, found = np.random.default_rng(len(quads)), {}
    for at, angle in enumerate(angles):
        centre = np.array([5.2 * np.cos(angle), 5.2 * np.sin(angle), 2.6])
        pose = rendered.looking(centre, [0, 0, 0.5])
        seen, depth = rendered.look(quads, pose, SIZE, FOCAL)
        name = f"{prefix}{at}.jpg"
        picture = Image.fromarray(rendered.photograph(seen, SIZE, rng))
        picture.save(folder / name, quality=95)
        found[name] = pose, depth[::2, ::2]
    return found


def truth(found):
    """Return the model of photographs, with a point on a grid of each: no other sees the same."""
    views, points = [], []
    grid = np.stack(np.meshgrid(*(np.arange(6, side, 12) for side in SIZE)), -1).reshape(-1, 2)
    matrix = np.array([[FOCAL, 0, SIZE[0] / 2], [0, FOCAL, SIZE[1] / 2], [0, 0, 1]])
    for name, (pose, depth) in found.items():
        away = depth[grid[:, 1], grid[:, 0]].astype(float)
        pixels, away = grid[np.isfinite(away)] + 0.5, away[np.isfinite(away)]
        rays = (pixels - matrix[:2, 2]) / FOCAL
        local = np.c_[rays, np.ones(len(rays))] * away[:, None]
        numbers = np.arange(len(pixels)) + sum(map(len, points))
        points.append((local - pose.translation) @ pose.rotation)
        placed = (pose.rotation, pose.translation, matrix, 0.0, SIZE)
        views.append(View(name, *placed, pixels.astype(np.float32), numbers))
    xyz = np.concatenate(points)
    none = np.zeros(len(xyz))
    return Model(0, 0, views, xyz, np.zeros((len(xyz), 3), np.uint8), none, none)


def test_what_surrounds_a_look_alike_contradicts(tmp_path):
    """Photographs of one place agree; those of two that share a box contradict each other."""
    angles = np.linspace(0, 0.6, 5)
    one = taken(tmp_path, "p", place(31), angles)
    other = taken(tmp_path, "q", place(32), angles + 0.05)
    assert overlaid.contradiction(truth(one), tmp_path) is None
    assert overlaid.contradiction(truth(other), tmp_path) is None
    pair = overlaid.contradiction(truth(one | other), tmp_path)
    assert pair is not None
    assert {name[0] for name in pair} == {"p", "q"}
    asked = iter([*[False] * 12, *[True] * 100])  # stopped while pictures are compared
    assert overlaid.contradiction(truth(one | other), tmp_path, lambda: next(asked)) is None
    assert len(list(asked)) == 99


@pytest.mark.parametrize("known", [1, -1])
def test_what_compares_in_one_direction_only_is_no_contradiction(tmp_path, monkeypatch, known):
    """Whichever of two photographs comes first."""
    found = taken(tmp_path, "p", place(31), np.linspace(0, 0.6, 5))
    order = {name: at for at, name in enumerate(found)}

    def likeness(one, other):
        ahead = order[other.view.file] - order[one.view.file]
        return 0.0 if ahead * known > 0 else float("nan")

    monkeypatch.setattr(overlaid, "_likeness", likeness)
    assert overlaid.contradiction(truth(found), tmp_path) is None


def test_distant_views_of_one_place_do_not_contradict(tmp_path):
    """Nothing is told of cameras so far apart that each sees what the other cannot."""
    apart = np.r_[np.linspace(0, 0.4, 4), np.linspace(1.6, 2, 4)]
    assert overlaid.contradiction(truth(taken(tmp_path, "p", place(31), apart)), tmp_path) is None


def test_the_photographer_is_told(reconstructed, tmp_path):
    """One model of two places is told, with two photographs that contradict each other."""
    angles = np.linspace(0, 0.7, 6)
    both = tmp_path / "both"
    taken(both, "p", place(31), angles)
    taken(both, "q", place(32), angles)
    _, end, _ = reconstructed(both, max_size=400, max_keypoints=2048)
    assert end.how == "done", end.why
    assert [each["num_images"] for each in end.figures["clusters"]] == [12]
    told = " ".join(end.figures["advice"])
    assert "cluster0_model0 lies on top of itself: p" in told
    assert "reconstruct the two places one by one" in told
