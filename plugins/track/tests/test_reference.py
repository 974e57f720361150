"""The tracker against an implementation of its own, written from the paper and the documentation.

What the page says of the differences from the authors' code is all that there is.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from mataserver import Detection
from mataserver_track.options import TrackParams

IMAGE = np.zeros((8, 8, 3), np.uint8)
OBJECTS, SIDE = 12, 40.0
STRONG, BEGINS, BUFFER = 0.6, 0.7, 30
OVERLAP, WEAK_OVERLAP = 0.1, 0.5
MOTION = np.eye(8) + np.eye(8, k=4)
SEEN = np.eye(4, 8)


def scenario(seed, frames=100):
    """Squares that wander through each other, some weak, some missing, among weak false ones."""
    chance = np.random.default_rng(seed)
    places, speeds = chance.uniform(0, 300, (OBJECTS, 2)), chance.uniform(-4, 4, (OBJECTS, 2))
    made = []
    for _ in range(frames):
        places = places + speeds
        seen = places[chance.random(OBJECTS) > 0.15]
        scores = np.where(
            chance.random(len(seen)) < 0.2, 0.3, chance.uniform(0.62, 0.99, len(seen))
        )
        false = chance.uniform(-20, 320, (4, 2))
        corners = np.concatenate([seen, false])
        confidence = np.concatenate([scores, chance.uniform(0.1, 0.5, 4)])
        order = chance.permutation(len(corners))
        made.append(
            [
                Detection(
                    "thing", float(score), (float(x), float(y), float(x + SIDE), float(y + SIDE))
                )
                for (x, y), score in zip(corners[order], confidence[order], strict=True)
            ]
        )
    return made


class Track:
    """A Kalman filter of the four edges and their speeds."""

    def __init__(self, box):
        self.state, self.spread = np.concatenate([box, np.zeros(4)]), np.eye(8)
        self.id, self.missed = 0, 0

    def predict(self):
        self.state = MOTION @ self.state
        self.spread = MOTION @ self.spread @ MOTION.T + 0.01 * np.eye(8)

    def update(self, box):
        gain = self.spread @ SEEN.T @ np.linalg.inv(self.spread[:4, :4] + 0.1 * np.eye(4))
        self.state = self.state + gain @ (box - self.state[:4])
        self.spread = self.spread - gain @ SEEN @ self.spread
        self.missed = 0


def overlap(one, other):
    """Intersection over union of two boxes."""
    width, height = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    shared = max(width, 0.0) * max(height, 0.0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return shared / (sum(areas) - shared)


class Reference:
    """ByteTrack with rounds in which every track takes part."""

    def __init__(self):
        self.tracks, self.last = [], 0

    def match(self, tracks, boxes, places, least):
        """Assign the boxes at ``places`` to tracks; return the pairs of a track and a place."""
        if not tracks or not places:
            return []
        table = np.array([[overlap(t.state[:4], boxes[p]) for p in places] for t in tracks])
        if least == WEAK_OVERLAP:  # the first round assigns what it may reject afterwards
            table[table < least] = -1.0
        pairs = zip(*linear_sum_assignment(-table), strict=True)
        return [(tracks[i], places[j]) for i, j in pairs if table[i, j] >= least]

    def step(self, frame):
        """Return the id of each detection, 0 without one."""
        boxes = [np.array(each.bbox) for each in frame]
        strong = [i for i, each in enumerate(frame) if each.confidence >= STRONG]
        weak = [i for i in range(len(frame)) if i not in strong]
        for track in self.tracks:
            track.predict()
            track.missed += 1
        first = self.match(self.tracks, boxes, strong, OVERLAP)
        taken = {id(track) for track, _ in first}
        rest = [track for track in self.tracks if id(track) not in taken]
        ids = [0] * len(frame)
        for track, place in first + self.match(rest, boxes, weak, WEAK_OVERLAP):
            track.update(boxes[place])
            if not track.id:
                self.last = track.id = self.last + 1
            ids[place] = track.id
        kept = [t for t in self.tracks if t.missed <= BUFFER and (t.id or not t.missed)]
        used = {place for _, place in first}
        new = [i for i in strong if i not in used and frame[i].confidence >= BEGINS]
        self.tracks = kept + [Track(boxes[i]) for i in new]
        return ids


def test_ids_are_those_of_the_paper_but_for_what_the_page_says(tracker, script):
    """In 500 frames with weak, missing and false boxes each detection has the same id."""
    seen = 0
    for seed in range(5):
        frames, reference = scenario(seed), Reference()
        session = tracker(script(frames), timing="frames").session(TrackParams())
        for frame in frames:
            ids = {
                each.bbox: number for each, number in zip(frame, reference.step(frame), strict=True)
            }
            reported = {each.bbox: each.track_id for each in session.step(IMAGE).detections}
            assert reported == {box: number for box, number in ids.items() if number}
            seen += len(reported)
    assert seen > 500 * OBJECTS / 2
