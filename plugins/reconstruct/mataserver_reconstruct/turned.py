"""Whether a camera was only turned: its photographs may fit a model, but no depth is in them.

A homography fits each pair of such photographs, as it fits those of a flat thing before a camera
that moved. Only if the camera was turned is each of them a rotation of the rays, with one focal
length for all. COLMAP cannot tell the two apart, and with another focal length makes up depths.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from mataserver_reconstruct.exif import FULL_FRAME
from mataserver_reconstruct.graph import MIN_INLIERS
from mataserver_reconstruct.native import pycolmap

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from mataserver_reconstruct.graph import Pair
    from mataserver_reconstruct.workspace import Workspace

_FLAT = 0.9
"""The least share of the pairs that tell no depth, each by itself."""
_MOVED = 0.15
"""How far the content of a pair must have moved: little of it fits any rotation."""
_MOST = 60  # pairs that are compared
_FITS, _ERROR = 0.004, 0.003
"""How far places may be from where the homography and the rotation take them, the latter in the
median: of turned cameras 0.0004 to 0.0011 was seen, of those held by hand, which made wrong models
too, up to 0.0028; of flat things 0.0042 and more.
"""
_AGREE = 75  # percentile of the pairs that must
_LONGEST = 1.6  # with a longer lens a step aside moves all as a rotation does
_USUAL = np.geomspace(0.6, 1.6, 25)
_ABOUT = np.linspace(0.85, 1.15, 13)  # of what EXIF tells


class MovedPair(NamedTuple):
    """What a homography fits of a pair, ``[n, 2]`` each, and its focal length by EXIF, or 0.

    All lengths here are parts of a picture's longer side; places count from its middle.
    """

    first: NDArray[np.float64]
    second: NDArray[np.float64]
    focal: float


def only_turned(workspace: Workspace, pairs: Sequence[Pair], files: set[str]) -> bool:
    """Whether the camera of these photographs, whose verified pairs are given, did not move."""
    own = [pair for pair in pairs if {pair.first, pair.second} <= files]
    if sum(pair.flat for pair in own) < _FLAT * len(own):
        return False
    own.sort(key=lambda pair: -pair.inliers)
    return is_rotation(list(_moved(workspace, own[:_MOST])))


def is_rotation(pairs: Sequence[MovedPair]) -> bool:
    """Whether rotations explain the pairs; of none nothing is concluded."""
    told = np.array([pair.focal for pair in pairs])
    if not len(pairs) or told.max() > _LONGEST:
        return False
    tried = _ABOUT[:, None] * told if told.all() else np.repeat(_USUAL[:, None], len(pairs), 1)
    errors = [[_error(*each) for each in zip(pairs, focal, strict=True)] for focal in tried]
    return bool(np.percentile(errors, _AGREE, axis=1).min() < _ERROR)


def _error(pair: MovedPair, focal: float) -> float:
    """Return how far the best rotation of the first one's rays misses the second, in the median."""
    one, two = (np.c_[places / focal, np.ones(len(places))] for places in pair[:2])
    lengths = [np.linalg.norm(rays, axis=1, keepdims=True) for rays in (one, two)]
    left, _, right = np.linalg.svd((two / lengths[1]).T @ (one / lengths[0]))
    seen = one @ (left @ np.diag([1, 1, np.linalg.det(left @ right)]) @ right).T
    places = seen[:, :2] / np.maximum(seen[:, 2:], 1e-6) * focal
    return float(np.median(np.linalg.norm(places - pair.second, axis=1)))


def _moved(workspace: Workspace, pairs: Sequence[Pair]) -> Iterator[MovedPair]:
    """Yield the pairs whose content moved, without what a homography does not fit.

    COLMAP's inliers are those of epipolar geometry, which chance matches fit, too.
    """
    photos = {photo.file: photo for photo in workspace.photos}
    with pycolmap.Database.open(workspace.database) as opened:
        ids = {image.name: image.image_id for image in opened.read_all_images()}
        for pair in pairs:
            both = [(ids[file], photos[file]) for file in (pair.first, pair.second)]
            found = opened.read_two_view_geometry(both[0][0], both[1][0])
            matches = np.asarray(found.inlier_matches)
            ends = []
            for (number, photo), at in zip(both, matches.T, strict=True):
                size = np.array([photo.width, photo.height])
                pixels = np.asarray(opened.read_keypoints(number), np.float64)[at, :2]
                ends.append((pixels - size / 2) / size.max())
            _, fits = cv2.findHomography(ends[0], ends[1], cv2.RANSAC, _FITS)
            kept = np.zeros(len(matches), bool) if fits is None else fits.ravel() > 0
            first, second = (each[kept] for each in ends)
            away = np.linalg.norm(second - first, axis=1)
            if len(away) >= MIN_INLIERS and np.median(away) > _MOVED:
                focal = [photo.exif.focal_35 / FULL_FRAME for _, photo in both]
                yield MovedPair(first, second, min(focal) if focal[0] == focal[1] else 0.0)
