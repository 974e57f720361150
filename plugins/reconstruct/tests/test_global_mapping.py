"""Scenes that incremental mapping does not get through are mapped at once."""

from __future__ import annotations

import shutil
import signal
import time

import numpy as np
import psutil
import pytest
from test_reconstruct import errors

from mataserver_reconstruct import global_mapping, graph, imc

pytestmark = [pytest.mark.timeout(900), pytest.mark.long]

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


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_job_that_ends_while_its_scene_is_mapped_at_once(orbit, begin, tmp_path, how):
    """It leaves no process behind; one that is stopped writes what it had before."""
    source = tmp_path / "photos"
    source.mkdir()
    for name in (sorted(orbit[1])[at] for at in APART):
        shutil.copy(orbit[0] / name, source)
    job = begin(source, tmp_path / "out", max_size=640, max_keypoints=2048, camera="single")
    running = psutil.Process(job.process.pid)
    mapping = []
    while not mapping:
        time.sleep(0.01)
        assert job.process.poll() is None, "it ended before"
        mapping = [
            each
            for each in running.children(recursive=True)
            if global_mapping.__name__ in each.cmdline() and each.cmdline()[1] == "-m"
        ]
    mapping[0].suspend()  # it would end by itself
    others = running.children(recursive=True)
    if how == "kill":
        job.process.kill()
    else:
        job.process.send_signal(signal.SIGTERM)
        assert job.end().how == "stopped"
        found = imc.read((tmp_path / "out" / "submission.csv").read_text())
        assert sum(np.isfinite(row.centre).all() for row in found.values()) > 2
        assert "It was stopped" in (tmp_path / "out" / "report.html").read_text()
    assert not psutil.wait_procs(others, timeout=30)[1]


def test_what_points_do_not_hold_together_is_left_out():
    """Two parts that few points tie are two; the larger stays. One photograph alone has none."""
    left = [{1, 2, 3}] * 20 + [{3, 4}] * 15
    right = [{5, 6, 7}] * 30
    between = [{2, 5}] * 14 + [{4, 8}]
    assert graph.largest_connected([*left, *right, *between]) == {1, 2, 3, 4}
    assert graph.largest_connected([*left, *right, *between, {2, 5}]) == set(range(1, 8))
    assert graph.largest_connected([]) == set()
    still = [set(range(1, 301))] * 3_000  # a camera that stood still: each point is in all
    assert graph.largest_connected([*still, *[{300, 301}] * 15, *[{1, 302}] * 14]) == set(
        range(1, 302)
    )
