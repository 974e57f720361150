"""A semi-dense cloud: the depths of all photographs of a model that confirm each other."""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING

import numpy as np

from mataserver_reconstruct import cloud, depth
from mataserver_reconstruct.cloud import Cloud
from mataserver_reconstruct.photos import write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from mataserver_reconstruct.model import Model, View
    from mataserver_reconstruct.workspace import Workspace

VOXEL = 0.002
"""Default side of a voxel, as a part of the cloud's extent."""

_FOLDER = "depths"
_SAME = 0.01  # the largest relative difference of two photographs' depths
_MOST = 3_000_000  # points that are held before they are downsampled


def dense_cloud(workspace: Workspace, model: Model, done: Callable[[int], None]) -> Cloud:
    """Return the points that photographs of a model agree on; ``done`` counts photographs.

    Depths from an earlier attempt at the same model are reused.
    """
    folder = workspace.work / _FOLDER / _digest(model)
    folder.mkdir(parents=True, exist_ok=True)
    around = {view.file: depth.neighbours(view, model) for view in model.views}
    for number, view in enumerate(model.views):
        _find(workspace, model, view, around[view.file], folder)
        done(number + 1)
    parts = Cloud(np.empty((0, 3)), np.empty((0, 3), np.uint8))
    for view in model.views:
        done(len(model.views))  # it ends a job that is to stop
        fresh = _confirmed(workspace, model, view, around[view.file], folder)
        parts = Cloud(np.r_[parts.xyz, fresh.xyz], np.r_[parts.rgb, fresh.rgb])
        if len(parts.xyz) > _MOST:
            parts = cloud.voxel_downsample(
                parts, workspace.spec.voxel, workspace.spec.max_points, VOXEL
            )
    return parts


def _find(workspace: Workspace, model: Model, view: View, others: list[View], folder: Path) -> None:
    file = folder / f"{view.file}.npy"
    if file.exists():
        return
    own = depth.read_picture(workspace.folder / view.file, view, model)
    found = np.zeros(own.grey.shape, np.float32)
    if others and own.near > 0:
        pictures = [
            depth.read_picture(workspace.folder / each.file, each, model) for each in others
        ]
        found = depth.plane_sweep(own, pictures)
    out = io.BytesIO()
    np.save(out, found)
    write_atomically(file, out.getvalue())


def _confirmed(
    workspace: Workspace, model: Model, view: View, others: list[View], folder: Path
) -> Cloud:
    """Return the points of one photograph's depths that its neighbours' depths confirm."""
    own = depth.read_picture(workspace.folder / view.file, view, model)
    found = np.load(folder / f"{view.file}.npy")
    rows, columns = np.nonzero(found)
    pixels = np.stack([columns, rows, np.ones(len(rows))])
    local = (np.linalg.inv(own.matrix) @ pixels) * found[rows, columns]
    xyz = (local.T - view.translation) @ view.rotation
    agreed = np.zeros(len(xyz), int)
    for other in others:
        depths = np.load(folder / f"{other.file}.npy")
        agreed += _agrees(xyz, other, depths)
    keep = agreed >= min(2, len(others))
    return Cloud(xyz[keep], own.rgb[rows, columns][keep])


def _agrees(
    xyz: NDArray[np.float64],
    other: View,
    depths: NDArray[np.float32],
) -> NDArray[np.bool_]:
    """Return which points agree with another photograph's depths."""
    height, width = depths.shape
    matrix = depth.camera_matrix(other, width, height)
    local = xyz @ other.rotation.T + other.translation
    away = np.maximum(local[:, 2], 1e-9)
    at = np.rint((local / away[:, None]) @ matrix.T)[:, :2]
    inside = (at >= 0).all(axis=1) & (at < (width, height)).all(axis=1) & (local[:, 2] > 0)
    column, row = np.where(inside[:, None], at, 0).astype(int).T
    there = depths[row, column]
    found: NDArray[np.bool_] = inside & (np.abs(there - away) < _SAME * away) & (there > 0)
    return found


def _digest(model: Model) -> str:
    state = hashlib.sha256()
    for view in model.views:
        state.update(view.file.encode() + view.rotation.tobytes() + view.translation.tobytes())
    return state.hexdigest()[:16]
