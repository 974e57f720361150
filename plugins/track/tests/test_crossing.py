"""A made-up video: coloured discs that cross each other, and a detector that overlooks some."""

from __future__ import annotations

import numpy as np
import pytest

from mataserver_track.options import TrackParams

HEIGHT, WIDTH, RADIUS, FRAMES = 360, 640, 22, 300
AREA = float(np.pi * RADIUS**2)


def video(colours):
    """Yield frames of six discs that bounce off the walls and pass in front of each other."""
    generator = np.random.default_rng(11)
    low, high = np.array([RADIUS, RADIUS]), np.array([WIDTH - RADIUS, HEIGHT - RADIUS])
    places = generator.uniform(low, high, (len(colours), 2))
    speeds = generator.uniform(2.0, 6.0, places.shape) * generator.choice([-1, 1], places.shape)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
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
    return sum(a != b for each in ids.values() for a, b in zip(each, each[1:], strict=False))
