"""A model as plain arrays: cameras, poses, points, and which view sees which point."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class View:
    """One placed photograph.

    rotation, translation: ``[3, 3]`` and ``[3]``, from the world to the camera, whose axes are
        right, down and forward.
    matrix:     ``[3, 3]``, of the camera, for the working copy.
    distortion: radial, k1.
    size:       width and height of that file.
    keypoints:  float32 ``[n, 2]`` pixels.
    points:     int64 ``[n]``, the point of each keypoint, -1 for none.
    """

    file: str
    rotation: NDArray[np.float64]
    translation: NDArray[np.float64]
    matrix: NDArray[np.float64]
    distortion: float
    size: tuple[int, int]
    keypoints: NDArray[np.float32]
    points: NDArray[np.int64]

    @property
    def centre(self) -> NDArray[np.float64]:
        """The position of the camera, ``[3]``."""
        place: NDArray[np.float64] = -self.rotation.T @ self.translation
        return place


@dataclass(frozen=True)
class Scale:
    """The source of a model's scale in metres, and its relative error, if known."""

    by: str
    error: float | None = None

    def __str__(self) -> str:
        about = "" if self.error is None else f", to about {max(self.error, 0.01):.0%}"
        return f"by {self.by}{about}"


@dataclass(frozen=True)
class Model:
    """One model.

    cluster, index: of its scene, and in it.
    views:  by file.
    xyz:    float64 ``[n, 3]``.
    rgb:    uint8 ``[n, 3]``.
    errors: float64 ``[n]``, mean reprojection error in pixels.
    tracks: int64 ``[n]``, photographs that see it.
    scale:  of a model in metres; the unit of others is arbitrary.
    """

    cluster: int
    index: int
    views: list[View]
    xyz: NDArray[np.float64]
    rgb: NDArray[np.uint8]
    errors: NDArray[np.float64]
    tracks: NDArray[np.int64]
    scale: Scale | None = None

    @property
    def name(self) -> str:
        """The model's name."""
        return f"cluster{self.cluster}_model{self.index}"

    @property
    def centres(self) -> NDArray[np.float64]:
        """The positions of the cameras, ``[n, 3]``."""
        return np.array([view.centre for view in self.views])

    @property
    def rotations(self) -> NDArray[np.float64]:
        """The rotations of the cameras, ``[n, 3, 3]``."""
        return np.array([view.rotation for view in self.views])

    def transformed(
        self, turn: NDArray[np.float64], shift: NDArray[np.float64], scale: float
    ) -> Model:
        """Return the model with each position x moved to ``scale * (turn @ x) + shift``."""
        views = []
        for view in self.views:
            rotation = view.rotation @ turn.T
            translation = scale * view.translation - rotation @ shift
            views.append(replace(view, rotation=rotation, translation=translation))
        return replace(self, views=views, xyz=scale * (self.xyz @ turn.T) + shift)


def model_from(found: Any, cluster: int, index: int) -> Model:
    """Return pycolmap's reconstruction as arrays; views by file, points by their ids."""
    if any(point.error < 0 for point in found.points3D.values()):  # unset, as in a snapshot
        found.update_point_3d_errors()
    points = sorted(found.points3D.items())
    at = {number: place for place, (number, _) in enumerate(points)}
    views = [_view(found.image(number), at) for number in found.reg_image_ids()]
    return Model(
        cluster,
        index,
        sorted(views, key=lambda view: view.file),
        np.array([point.xyz for _, point in points], np.float64).reshape(-1, 3),
        np.array([point.color for _, point in points], np.uint8).reshape(-1, 3),
        np.array([point.error for _, point in points], np.float64),
        np.array([point.track.length() for _, point in points], np.int64),
    )


def _view(image: Any, at: dict[int, int]) -> View:
    pose = image.cam_from_world()
    seen = image.points2D
    points = np.full(len(seen), -1, np.int64)
    for number in image.get_observation_point2D_idxs():  # few of all
        points[number] = at.get(seen[number].point3D_id, -1)
    return View(
        image.name,
        np.array(pose.rotation.matrix()),
        np.array(pose.translation),
        np.array(image.camera.calibration_matrix()),
        float(image.camera.params[3]),
        (image.camera.width, image.camera.height),
        np.array([point.xy for point in seen], np.float32).reshape(-1, 2),
        points,
    )
