"""Depths of one photograph by plane sweep.

A neighbour's picture is warped onto the photograph as if everything in it lay on one plane at one
depth (a homography), and compared in small windows by zero-mean normalised cross-correlation. The
depth at which the two best neighbours agree most is that of the pixel (Collins 1996).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from mataserver_reconstruct import measures

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mataserver_reconstruct.model import Model, View

SIDE = 480
"""Longest side in pixels at which depths are computed."""

PLANES, NEIGHBOURS = 64, 4
_WINDOW = (7, 7)
_AGREED = 0.75  # the least correlation of a depth
_TEXTURE = 9.0  # the least variance of a window's grey levels
_SHARED = 12  # the least number of points shared with a neighbour
_ANGLES = (2.0, 35.0)  # degrees between two lines of sight: wide for depth, narrow for similarity


@dataclass(frozen=True)
class Picture:
    """A small photograph without distortion.

    rgb, grey: uint8 ``[H, W, 3]`` and float32 ``[H, W]``. matrix: of its camera, ``[3, 3]``. near,
    far: the range of its points' depths; both 0 when it has too few.
    """

    view: View
    rgb: NDArray[np.uint8]
    grey: NDArray[np.float32]
    matrix: NDArray[np.float64]
    near: float
    far: float


def read_picture(file: Path, view: View, model: Model) -> Picture:
    """Read a photograph for its depths. Raises ``OSError`` when it does not exist."""
    pixels = cv2.imread(str(file), cv2.IMREAD_COLOR_RGB)
    if pixels is None:
        raise FileNotFoundError(file.name)
    small = measures.downscaled(np.asarray(pixels, np.uint8), SIDE)
    matrix = camera_matrix(view, small.shape[1], small.shape[0])
    plain: Any = cv2.undistort(small, matrix, np.array([view.distortion, 0.0, 0.0, 0.0]))
    grey: Any = cv2.cvtColor(plain, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return Picture(view, plain, grey, matrix, *_range(view, model))


def camera_matrix(view: View, width: int, height: int) -> NDArray[np.float64]:
    """Return the matrix of a view's camera for its picture in a size.

    Pixel centers are integers, as in OpenCV; COLMAP's are at halves.
    """
    matrix = np.diag([width / view.size[0], height / view.size[1], 1.0]) @ view.matrix
    matrix[:2, 2] -= 0.5
    return matrix


def neighbours(view: View, model: Model) -> list[View]:
    """Return the best views for a view's depths: with many shared points, seen from aside."""
    own = np.unique(view.points[view.points >= 0])
    found = []
    for other in model.views:
        shared = np.intersect1d(own, other.points[other.points >= 0])
        if other is view or len(shared) < _SHARED:
            continue
        rays = [model.xyz[shared] - each.centre for each in (view, other)]
        lengths = [np.linalg.norm(ray, axis=1) for ray in rays]
        cosine = (rays[0] * rays[1]).sum(axis=1) / np.maximum(lengths[0] * lengths[1], 1e-12)
        angle = float(np.degrees(np.arccos(np.clip(np.median(cosine), -1, 1))))
        if _ANGLES[0] <= angle <= _ANGLES[1]:
            found.append((len(shared), other))
    found.sort(key=lambda each: (-each[0], each[1].file))
    return [other for _, other in found[:NEIGHBOURS]]


def plane_sweep(reference: Picture, others: Sequence[Picture]) -> NDArray[np.float32]:
    """Return the depths of a photograph, float32 ``[H, W]``, 0 where uncertain."""
    inverse = np.linspace(1 / reference.far, 1 / reference.near, PLANES)
    mean = cv2.blur(reference.grey, _WINDOW)
    variance = cv2.blur(reference.grey**2, _WINDOW) - mean**2
    scores = np.stack([_agreement(reference, others, 1 / each, mean, variance) for each in inverse])
    best = scores.argmax(axis=0)
    shift = _subplane_shift(scores, best)
    depth = 1 / np.interp(best + shift, np.arange(PLANES), inverse)
    sure = (scores.max(axis=0) >= _AGREED) & (variance >= _TEXTURE)
    sure &= (best > 0) & (best < PLANES - 1)  # at the ends the depth may lie beyond
    return np.where(sure, depth, 0).astype(np.float32)


def _range(view: View, model: Model) -> tuple[float, float]:
    seen = model.xyz[view.points[view.points >= 0]]
    depths = (seen @ view.rotation.T + view.translation)[:, 2]
    depths = depths[depths > 0]
    if len(depths) < _SHARED:
        return 0.0, 0.0
    near, far = np.percentile(depths, [2, 98])
    return float(near) * 0.8, float(far) * 1.3


def _agreement(
    reference: Picture, others: Sequence[Picture], depth: float, mean: Any, variance: Any
) -> NDArray[np.float32]:
    """Return how well the two best neighbours agree on a plane, -1 to 1, ``[H, W]``."""
    each = [_correlation(reference, other, depth, mean, variance) for other in others]
    if len(each) == 1:
        return each[0]
    best = np.partition(np.stack(each), -2, axis=0)[-2:]
    found: NDArray[np.float32] = best.mean(axis=0)
    return found


def _correlation(
    reference: Picture, other: Picture, depth: float, mean: Any, variance: Any
) -> NDArray[np.float32]:
    one, two = reference.view, other.view
    turn = two.rotation @ one.rotation.T
    shift = two.translation - turn @ one.translation
    turn[:, 2] += shift / depth
    across = other.matrix @ turn @ np.linalg.inv(reference.matrix)
    laid: Any = cv2.warpPerspective(
        other.grey,
        across,
        reference.grey.shape[::-1],
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
    )
    own = cv2.blur(laid, _WINDOW)
    spread = cv2.blur(laid * laid, _WINDOW) - own * own
    common = cv2.blur(laid * reference.grey, _WINDOW) - own * mean
    found: NDArray[np.float32] = common / np.sqrt(np.maximum(spread * variance, 1.0))
    return found


def _subplane_shift(scores: Any, best: Any) -> Any:
    """Return the best position between two planes, by a parabola, -0.5 to 0.5."""
    middle = np.clip(best, 1, PLANES - 2)[None]
    before, at, after = (np.take_along_axis(scores, middle + k, 0)[0] for k in (-1, 0, 1))
    bend = before - 2 * at + after
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = np.where(bend < 0, (before - after) / (2 * bend), 0.0)
    return np.clip(shift, -0.5, 0.5)
