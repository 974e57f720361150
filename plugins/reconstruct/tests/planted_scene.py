"""A program that matches pairs of rendered photographs, as an operator's would: it knows the truth.

``python planted_scene.py TRUTH ORDER``: ``TRUTH`` holds the depths and poses of the photographs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import rendered

SIZE = (400, 300)


class Planted(NamedTuple):
    """The folder of photographs, the file of what the program needs, and the poses by name."""

    photos: Path
    truth: Path
    poses: dict


def plant(folder):
    """Render six photographs a step apart and write what the program needs."""
    depths = []
    photos, truth = folder / "photos", folder / "truth.npz"
    poses = rendered.orbit(photos, 11, 6, "p", SIZE, arc=1.6, depths=depths)
    np.savez(
        truth,
        depths=np.stack(depths)[:, ::2, ::2],
        rotations=[pose.rotation for pose in poses.values()],
        translations=[pose.translation for pose in poses.values()],
    )
    return Planted(photos, truth, poses)


STEP = 10
"""Pixels between the places of the first photograph, as networks have them on a grid."""


def matched(truth, one, two, rng):
    """Return places of the same in two photographs, a fifth of a pixel off, and scores."""
    focal, centre = rendered.FOCAL * max(SIZE), np.array(SIZE) / 2
    xy = np.stack(np.meshgrid(*(np.arange(5, side, STEP) for side in SIZE)), -1).reshape(-1, 2)
    depth = truth["depths"][one][xy[:, 1], xy[:, 0]].astype(float)
    xy, depth = xy[np.isfinite(depth)], depth[np.isfinite(depth)]
    first = xy + 0.25  # where the ray of the twice too large picture's pixel goes
    rays = np.c_[(first - centre) / focal, np.ones(len(xy))] * depth[:, None]
    world = (rays - truth["translations"][one]) @ truth["rotations"][one]
    local = world @ truth["rotations"][two].T + truth["translations"][two]
    second = local[:, :2] / local[:, 2:] * focal + centre
    inside = ((second >= 0) & (second < SIZE)).all(axis=1) & (local[:, 2] > 0)
    at = np.minimum(second.astype(int), np.array(SIZE) - 1) * inside[:, None]
    seen = inside & (np.abs(truth["depths"][two][at[:, 1], at[:, 0]] - local[:, 2]) < 0.05)
    noise = rng.normal(0, 0.2, (int(seen.sum()), 2))
    return first[seen], second[seen] + noise, rng.uniform(0.5, 1, int(seen.sum()))


def main():
    """Match the pairs of the order."""
    with np.load(sys.argv[1]) as held:
        truth = {name: held[name] for name in held.files}
    order = json.loads(Path(sys.argv[2]).read_bytes())
    for pair in order["pairs"]:
        one, two = (int(Path(pair[side]).stem) for side in ("first", "second"))
        rng = np.random.default_rng([order["seed"], one, two])
        first, second, score = matched(truth, one, two, rng)
        file = Path(order["output"], pair["file"])
        with file.with_suffix(".new").open("wb") as out:
            np.savez(out, first=first, second=second, score=score)
        file.with_suffix(".new").replace(file)
        print(".", flush=True)  # noqa: T201 - a line for each pair


if __name__ == "__main__":
    main()
