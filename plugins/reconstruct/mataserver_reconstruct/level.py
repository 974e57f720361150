"""Levels a model: z is up and the ground, if visible, is at z = 0.

Structure from motion has no gravity. People hold cameras level far more often than rolled, so up is
the direction perpendicular to all cameras' right axes; where all look the same way, it is the mean
of their up axes. The up axes of cameras that look straight down, as those of drones, cancel each
other, or say nothing of up: then it is the opposite of where they look. A plane that holds much of
the cloud and is nearly level refines it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mataserver_reconstruct.model import Model

    Vector = NDArray[np.float64]

_SPREAD = 0.15  # of the right axes: with less, they do not determine up
_AHEAD = 0.1  # the weight of where cameras look beside their up axes: more look down than up
_CANCELLED = 0.8  # length of the mean of the up axes, below which some are opposite to others
_TILT = np.cos(np.radians(15))
_DRAWS = 400
_SHARE = 0.15  # the least share of the points on a ground
_THICK = 0.01  # of the cloud's extent: how thick a plane is


def extent(xyz: NDArray[np.float64]) -> float:
    """Return the diagonal between the 5 and 95 percentiles of a cloud, 0 without points."""
    if not len(xyz):
        return 0.0
    low, high = np.percentile(xyz, [5, 95], axis=0)
    return float(np.linalg.norm(high - low))


def up(rotations: NDArray[np.float64]) -> Vector:
    """Return the unit vector that is up according to the cameras' rotations ``[n, 3, 3]``."""
    mean, ahead = -rotations[:, 1].mean(axis=0), rotations[:, 2].mean(axis=0)
    if look_around(rotations):
        axis: Vector = np.linalg.svd(rotations[:, 0], full_matrices=True)[2][2]
        return axis if axis @ (mean - _AHEAD * ahead) >= 0 else -axis
    length = float(np.linalg.norm(mean))
    if length < min(_CANCELLED, float(np.linalg.norm(ahead))):
        return opposite(rotations)
    return _unit(mean)


def look_around(rotations: NDArray[np.float64]) -> bool:
    """Whether cameras look in so many directions that they determine what is up."""
    strength = np.linalg.svd(rotations[:, 0], compute_uv=False)
    return len(rotations) > 2 and bool(strength[1] > _SPREAD * np.sqrt(len(rotations)))


def opposite(rotations: NDArray[np.float64]) -> Vector:
    """Return the unit vector that is up if the cameras look down."""
    return _unit(-rotations[:, 2].mean(axis=0))


def level_model(model: Model, seed: int, normal: Vector | None = None) -> Model:
    """Return a model with z up, its ground at 0 and its middle at the origin.

    ``normal`` is up, nearly, by default as the cameras tell it.
    """
    if not model.views or not len(model.xyz):
        return model
    if normal is None:
        normal = up(model.rotations)
    found = ground(model, normal, seed)
    if found is not None:
        normal = found[0]
    turn = to_z(normal)
    middle = np.median(model.xyz, axis=0)
    height = found[1] if found is not None else float(normal @ middle)
    shift = -(turn @ middle)
    shift[2] = -height
    return model.transformed(turn, shift, 1.0)


def ground(model: Model, normal: Vector, seed: int) -> tuple[Vector, float] | None:
    """Return the plane under the cameras, unit normal and offset ``n @ x``, or None.

    It is nearly perpendicular to ``normal``, holds enough of the cloud, and has few points below
    it.
    """
    xyz, rng = model.xyz, np.random.default_rng(seed)
    thick = _THICK * extent(xyz)
    best, best_held = None, int(_SHARE * len(xyz))
    if len(xyz) < 50:
        return None
    for first, second, third in rng.integers(0, len(xyz), (_DRAWS, 3)):
        tried = _unit(np.cross(xyz[second] - xyz[first], xyz[third] - xyz[first]))
        tried = tried if tried @ normal >= 0 else -tried
        if tried @ normal < _TILT:
            continue
        above = xyz @ tried - tried @ xyz[first]
        held = int((np.abs(above) < thick).sum())
        if held > best_held and (above < -3 * thick).mean() < 0.1:
            best, best_held = (tried, float(tried @ xyz[first])), held
    return None if best is None else _refine(xyz, best, thick)


def _refine(xyz: Vector, plane: tuple[Vector, float], thick: float) -> tuple[Vector, float]:
    normal, offset = plane
    near = xyz[np.abs(xyz @ normal - offset) < thick]
    middle = near.mean(axis=0)
    axis: Vector = np.linalg.svd(near - middle, full_matrices=False)[2][2]
    axis = axis if axis @ normal >= 0 else -axis
    return axis, float(axis @ middle)


def to_z(normal: Vector) -> NDArray[np.float64]:
    """Return the smallest rotation that takes a unit vector to (0, 0, 1)."""
    axis = np.cross(normal, [0.0, 0.0, 1.0])
    if normal[2] < -0.999_999:
        return np.diag([1.0, -1.0, -1.0])
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    turn: NDArray[np.float64] = np.eye(3) + cross + cross @ cross / (1 + normal[2])
    return turn


def _unit(vector: Vector) -> Vector:
    length = float(np.linalg.norm(vector))
    return vector / length if length > 0 else np.array([0.0, 0.0, 1.0])
