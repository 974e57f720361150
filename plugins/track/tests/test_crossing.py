"""A made-up video: coloured discs that cross each other, and a detector that overlooks some."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mataserver_track.options import TrackParams

pytestmark = pytest.mark.long

HEIGHT, WIDTH, RADIUS, FRAMES = 180, 320, 12, 200
AREA = float(np.pi * RADIUS**2)


def video(colours, seed):
    """Yield frames of six discs that bounce off the walls and pass in front of each other."""
    generator = np.random.default_rng(seed)
    low, high = np.array([RADIUS, RADIUS]), np.array([WIDTH - RADIUS, HEIGHT - RADIUS])
    places = generator.uniform(low, high, (len(colours), 2))
    speeds = generator.uniform(1.0, 3.0, places.shape) * generator.choice([-1, 1], places.shape)
    rows, columns = np.ogrid[:HEIGHT, :WIDTH]
    for _ in range(FRAMES):
        frame = np.full((HEIGHT, WIDTH, 3), 60, np.uint8)
        for (x, y), colour in zip(places, colours.values(), strict=True):
            frame[(columns - x) ** 2 + (rows - y) ** 2 <= RADIUS**2] = colour
        yield frame, places.copy()
        places += speeds
        speeds = np.where((places < low) | (places > high), -speeds, speeds)
        places = np.clip(places, low, high)


def crossings(frames):
    """Count how often two discs begin to overlap."""
    touching = []
    for _, places in frames:
        distances = np.linalg.norm(places[:, None] - places[None], axis=2)
        touching.append(np.triu(distances < RADIUS, 1))
    return int((np.diff(np.array(touching, int), axis=0) > 0).sum())


def followed(model, frames):
    """Return the ids that each label had, frame by frame."""
    session = model.session(TrackParams())
    ids = {}
    for frame, _ in frames:
        for each in session.step(frame).detections:
            ids.setdefault(each.label, []).append(each.track_id)
    return ids


def switches(ids):
    """Count how often a label's id is another than in the last frame that showed it."""
    return sum(a != b for each in ids.values() for a, b in itertools.pairwise(each))


@pytest.fixture(scope="module")
def scene(colours):
    """``scene(seed)`` is a video with where its discs are, drawn once."""
    drawn = {}

    def draw(seed):
        return drawn.setdefault(seed, list(video(colours, seed)))

    return draw


@pytest.fixture
def follow(scene, tracker, blobs):
    """``follow(seed, misses, **settings)`` are the ids by label in that scene."""

    def run(seed, misses, **settings):
        detector = blobs(0.98 * AREA, misses, seed=5)
        return followed(tracker(detector, **settings), scene(seed))

    return run


def test_ids_survive_crossings(scene, follow):
    """Six discs cross six times in 200 frames: each keeps the id that it got, no switch at all."""
    assert crossings(scene(3)) == 6
    ids = follow(3, misses=0.0)
    assert switches(ids) == 0
    assert sorted(each[0] for each in ids.values()) == [1, 2, 3, 4, 5, 6]
    assert sum(map(len, ids.values())) > 0.99 * 6 * FRAMES


def test_ids_survive_misses(follow):
    """With a detector that overlooks 15 of 100 discs there is still no switch."""
    ids = follow(3, misses=0.15)
    assert switches(ids) == 0
    assert 0.8 * 6 * FRAMES < sum(map(len, ids.values())) < 0.9 * 6 * FRAMES


def test_a_crowded_scene_has_few_switches(scene, follow):
    """Twelve crossings and 15 misses of 100 together cost at most a switch in 200 frames."""
    assert crossings(scene(2)) == 12
    assert switches(follow(2, misses=0.15)) <= 1
    assert switches(follow(2, misses=0.15, weak_iou_threshold=0.0)) == 4


def test_without_a_memory_every_miss_is_a_switch(follow):
    """The count can fail: a tracker that forgets within a frame gives over 100 new ids."""
    assert switches(follow(3, misses=0.15, lost_track_buffer=1)) > 100
