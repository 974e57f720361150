"""Point clouds: removes outliers and downsamples."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mataserver_reconstruct import level

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mataserver_reconstruct.model import Model

VOXEL = 0.005
"""Default side of a voxel, as a part of the cloud's extent."""

_ERROR, _TRACK, _ENOUGH_VIEWS = 2.0, 3, 8
_NEIGHBOURS, _LONELY, _FAR = 8, 4.0, 12.0
_GROWTH = 1.25


class Cloud(NamedTuple):
    """Points with colours: float64 ``[n, 3]``, uint8 ``[n, 3]``."""

    xyz: NDArray[np.float64]
    rgb: NDArray[np.uint8]


def reliable_points(model: Model) -> NDArray[np.bool_]:
    """Return which points of a model are kept, bool ``[n]``.

    Their error is under 2 pixels and, with enough views, at least three see each; isolated points
    and points far away from all others are removed.
    """
    few = len(model.views) < _ENOUGH_VIEWS
    keep: NDArray[np.bool_] = (model.errors < _ERROR) & (few | (model.tracks >= _TRACK))
    places = np.flatnonzero(keep)
    keep[places[~has_neighbours(model.xyz[places])]] = False
    return keep


def has_neighbours(xyz: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which points have others nearby and are not outliers, bool ``[n]``."""
    from scipy.spatial import cKDTree

    if len(xyz) <= _NEIGHBOURS:
        return np.ones(len(xyz), bool)
    middle = np.median(xyz, axis=0)
    away = np.linalg.norm(xyz - middle, axis=1)
    distance = cKDTree(xyz).query(xyz, _NEIGHBOURS + 1)[0][:, 1:].mean(axis=1)
    usual = np.median(distance)
    spread = np.median(np.abs(distance - usual)) * 1.4826
    lonely = distance > max(usual + _LONELY * 2 * spread, _LONELY * usual)
    keep: NDArray[np.bool_] = ~lonely & (away <= _FAR * max(float(np.median(away)), 1e-12))
    return keep


def voxel_downsample(cloud: Cloud, voxel: float | None, most: int, part: float = VOXEL) -> Cloud:
    """Return one point per occupied voxel: its points' mean position and colour.

    ``voxel`` is the side in the model's units, ``part`` of the cloud's extent when None. It grows
    until there are at most ``most`` points.
    """
    side = voxel or part * level.extent(cloud.xyz)
    if not len(cloud.xyz) or side <= 0:
        return cloud
    found = _downsample(cloud, side)
    while len(found.xyz) > most:
        # Surfaces: the number of voxels falls with the square of the side.
        side *= max(_GROWTH, (len(found.xyz) / most) ** 0.5)
        found = _downsample(cloud, side)
    return found


def _downsample(cloud: Cloud, side: float) -> Cloud:
    cells = np.floor((cloud.xyz - cloud.xyz.min(axis=0)) / side).astype(np.int64)
    order = np.lexsort(cells.T)
    cells = cells[order]
    fresh = np.flatnonzero(np.r_[True, (cells[1:] != cells[:-1]).any(axis=1)])
    count = np.diff(np.r_[fresh, len(cells)])[:, None]
    xyz = np.add.reduceat(cloud.xyz[order], fresh, axis=0) / count
    rgb = np.add.reduceat(cloud.rgb[order].astype(np.float64), fresh, axis=0) / count
    return Cloud(xyz, np.rint(rgb).astype(np.uint8))
