"""Scenes that incremental mapping does not get through are mapped at once."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from test_reconstruct import errors

from mataserver_reconstruct import graph

pytestmark = pytest.mark.timeout(900)

APART = (0, 1, 5, 6, 8, 9, 10, 15)
"""Views of the orbit among which incremental mapping makes models of 5, 3 and 3 photographs."""


def test_a_scene_with_gaps_is_one_model(orbit, begin, tmp_path):
    source = tmp_path / "photos"
    source.mkdir()
    names = [sorted(orbit[1])[at] for at in APART]
    for name in names:
        shutil.copy(orbit[0] / name, source)
    end = begin(source, tmp_path / "out", max_size=640, max_keypoints=2048, camera="single").end()
    assert end.how == "done", end.why
    assert end.figures["n_registered"] == len(APART)
    assert [each["num_images"] for each in end.figures["clusters"]] == [len(APART)]
    off, _ = errors(tmp_path / "out", {name: orbit[1][name] for name in names})
    assert np.median(off) < 0.01
    assert off.max() < 0.05


def test_what_points_do_not_hold_together_is_left_out():
    """Two parts that few points tie are two; the larger stays. One photograph alone has none."""
    left = [{1, 2, 3}] * 20 + [{3, 4}] * 15
    right = [{5, 6, 7}] * 30
    between = [{2, 5}] * 14 + [{4, 8}]
    assert graph.held([*left, *right, *between]) == {1, 2, 3, 4}
    assert graph.held([*left, *right, *between, {2, 5}]) == set(range(1, 8))
    assert graph.held([]) == set()
    still = [set(range(1, 301))] * 3_000  # a camera that stood still: each point is in all
    assert graph.held([*still, *[{300, 301}] * 15, *[{1, 302}] * 14]) == set(range(1, 302))
