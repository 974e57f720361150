"""Which pairs of many photographs are matched."""

from __future__ import annotations

import numpy as np

from mataserver_reconstruct import pairing


def glance(rng, world, seen):
    """Return descriptors of features of a world as a photograph shows them, in its own order."""
    noisy = world[seen] + rng.normal(0, 0.02, (len(seen), world.shape[1]))
    rng.shuffle(noisy)
    return (noisy / np.linalg.norm(noisy, axis=1, keepdims=True)).astype(np.float32)


def test_likely_pairs_are_those_of_one_scene():
    """Of two scenes in mixed order nearly all that overlap are paired, and few others."""
    rng, count = np.random.default_rng(1), 60
    worlds = [np.abs(rng.normal(size=(4000, 128))) for _ in range(2)]
    places = [(int(rng.integers(2)), float(rng.random())) for _ in range(count)]
    shown = []
    for scene, place in places:
        begin = int(place * 3600)
        shown.append(glance(rng, worlds[scene], rng.choice(400, 200, replace=False) + begin))
    files = [f"{at:03d}.jpg" for at in range(count)]
    told = []
    found = set(pairing.likely_pairs(files, shown, told.append))
    assert told == list(range(1, count + 1))
    true = {
        (files[a], files[b])
        for a in range(count)
        for b in range(a + 1, count)
        if places[a][0] == places[b][0] and abs(places[a][1] - places[b][1]) < 0.05
    }
    near = {pair for pair in found if int(pair[1][:3]) - int(pair[0][:3]) <= pairing.NEIGHBOURS}
    assert len(true & found) > 0.97 * len(true)
    assert len(found - near) < 2.5 * len(true)
    assert len(found) < count * (count - 1) / 4
    assert all(first < second for first, second in found)
    assert len(near) == sum(min(pairing.NEIGHBOURS, count - 1 - at) for at in range(count))


def test_photographs_without_features():
    """A photograph on which nothing is seen is paired with its neighbours alone."""
    rng = np.random.default_rng(2)
    world = np.abs(rng.normal(size=(300, 128)))
    shown = [glance(rng, world, np.arange(200)) for _ in range(20)]
    shown[0] = np.empty((0, 128), np.float32)
    files = [f"{at:02d}" for at in range(20)]
    found = pairing.likely_pairs(files, shown)
    assert [pair for pair in found if "00" in pair] == [("00", f"{at:02d}") for at in range(1, 6)]
    assert pairing.likely_pairs(files, [shown[0]] * 20) == [
        (files[a], files[b]) for a in range(20) for b in range(a + 1, min(20, a + 6))
    ]


def test_the_largest_features_are_looked_at():
    """Features are chosen by their size, of either form of keypoints, and have length 1."""
    rng = np.random.default_rng(3)
    descriptors = rng.integers(1, 256, (400, 128)).astype(np.uint8)
    size = rng.permutation(400).astype(np.float32) + 1
    plain = np.c_[np.zeros((400, 2)), size, np.zeros(400)].astype(np.float32)
    shape = np.c_[np.zeros((400, 2)), size, np.zeros((400, 2)), size].astype(np.float32)
    wanted = descriptors[np.argsort(-size)[: pairing.TOP_FEATURES]].astype(float)
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    for keypoints in (plain, shape):
        assert np.allclose(pairing.largest(keypoints, descriptors), wanted, atol=1e-6)
