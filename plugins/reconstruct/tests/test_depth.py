"""Depths by plane sweep, against the depths of a scene that is known."""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import rendered
from PIL import Image

from mataserver_reconstruct import densify, depth
from mataserver_reconstruct.cloud import Cloud
from mataserver_reconstruct.model import Model, View
from mataserver_reconstruct.spec import Spec

pytestmark = pytest.mark.long

SIZE, FOCAL = (320, 240), 352.0
MATRIX = np.array([[FOCAL, 0, 160.0], [0, FOCAL, 120.0], [0, 0, 1]])


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """A scene from four places a step apart: folder, model of some true points, true depths."""
    folder, rng = tmp_path_factory.mktemp("known"), np.random.default_rng(4)
    quads, poses = rendered.scene(3), []
    for angle in (0.0, 0.14, 0.28, 0.42):
        centre = np.array([5.2 * np.cos(angle), 5.2 * np.sin(angle), 2.6])
        poses.append(rendered.looking(centre, [0, 0, 0.5]))
    for at, pose in enumerate(poses):
        pixels = rendered.photograph(rendered.look(quads, pose, SIZE, FOCAL)[0], SIZE, rng)
        Image.fromarray(pixels).save(folder / f"{at}.png")
    _, deep = rendered.look(quads, poses[1], SIZE, FOCAL)
    rows, columns = (rng.integers(0, side * 2, 300) for side in SIZE[::-1])
    rays = np.c_[(columns + 0.5) / 2 - 160, (rows + 0.5) / 2 - 120, np.full(300, FOCAL)] / FOCAL
    away = deep[rows, columns]
    hit = np.isfinite(away)
    xyz = (rays[hit] * away[hit, None] - poses[1].translation) @ poses[1].rotation
    count = len(xyz)
    views = [
        View(
            f"{at}.png",
            p.rotation,
            p.translation,
            MATRIX,
            0.0,
            SIZE,
            np.zeros((count, 2), np.float32),
            np.arange(count),
        )
        for at, p in enumerate(poses)
    ]
    model = Model(0, 0, views, xyz, np.zeros((count, 3), np.uint8), np.zeros(count), np.ones(count))
    return folder, model, deep[::2, ::2]


def test_depths_are_true(known):
    """Where a depth is told, it is within 1 % of the true one nearly everywhere, unbiased."""
    folder, model, truth = known
    view = model.views[1]
    others = depth.neighbours(view, model)
    assert [other.file for other in others] == ["0.png", "2.png", "3.png"]
    own, *rest = (depth.read_picture(folder / v.file, v, model) for v in (view, *others))
    found = depth.plane_sweep(own, rest)
    told = (found > 0) & np.isfinite(truth)
    off = (found - truth)[told] / truth[told]
    assert told.mean() > 0.3
    assert np.median(np.abs(off)) < 0.005
    assert abs(np.median(off)) < 0.002
    assert (np.abs(off) < 0.02).mean() > 0.85


def test_what_shows_nothing_has_no_depth(known):
    """The bare sky gets no depth."""
    folder, model, truth = known
    pictures = [depth.read_picture(folder / v.file, v, model) for v in model.views]
    found = depth.plane_sweep(pictures[1], pictures[:1] + pictures[2:])
    away = np.ones((9, 9), np.uint8)  # a window at its edge has something in it
    sky = cv2.erode((~np.isfinite(truth)).astype(np.uint8), away).astype(bool)
    assert sky.mean() > 0.05
    assert (found[sky] > 0).mean() < 0.03


def test_views_that_share_nothing_are_no_neighbours(known):
    """A view without points in common, or from the same place, tells no depth."""
    _, model, _ = known
    alone = View(
        "x",
        *[getattr(model.views[0], n) for n in ("rotation", "translation", "matrix")],
        0.0,
        SIZE,
        np.empty((0, 2), np.float32),
        np.empty(0, np.int64),
    )
    assert depth.neighbours(alone, model) == []
    same = Model(0, 0, [model.views[0]] * 2, model.xyz, model.rgb, model.errors, model.tracks)
    assert depth.neighbours(model.views[0], same) == []


class Stopped(BaseException):
    """What a job raises that is to stop."""


def test_a_job_is_stopped_while_depths_are_compared(known, tmp_path, monkeypatch):
    """The last photograph's depths are found: not all are compared before it stops."""
    folder, model, _ = known
    compared = []

    def confirmed(_workspace, _model, view, *_):
        compared.append(view.file)
        return Cloud(np.zeros((1, 3)), np.zeros((1, 3), np.uint8))

    def done(number):
        if compared:
            raise Stopped
        assert 1 <= number <= len(model.views)

    monkeypatch.setattr(densify, "_find", lambda *_: None)
    monkeypatch.setattr(densify, "_confirmed", confirmed)
    made = SimpleNamespace(work=tmp_path, folder=folder, spec=Spec())
    with pytest.raises(Stopped):
        densify.dense_cloud(made, model, done)
    assert compared == ["0.png"]
