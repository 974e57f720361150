"""The result of a reconstruction, and its files and figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from mataserver_reconstruct import formats, shares, submission
from mataserver_reconstruct.files import CAMERAS, CSV, CSV_WITH_ID, PAIRS, REPORT, RESULT
from mataserver_reconstruct.photos import write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mataserver_reconstruct.cloud import Cloud
    from mataserver_reconstruct.graph import Graph
    from mataserver_reconstruct.model import Model, View
    from mataserver_reconstruct.photos import Photo
    from mataserver_reconstruct.verdicts import Verdict


@dataclass(frozen=True)
class Outcome:
    """The result. ``clouds`` are those of ``models``, as they are written.

    ``partial`` when it was stopped early.
    """

    job: str
    verdicts: list[Verdict]
    graph: Graph
    models: list[Model]
    clouds: list[Cloud]
    advice: list[str]
    partial: bool = False

    def file_of(self, model: Model, ending: str) -> str:
        """Return the name of a model's file."""
        return f"cluster{model.cluster}_decimated_model{model.index}_{self.job[:8]}.{ending}"

    def write(self, folder: Path, dataset: str) -> dict[str, Any]:
        """Write the clouds, the CSVs and the figures into a folder; return the figures."""
        for model, cloud in zip(self.models, self.clouds, strict=True):
            if len(cloud.xyz):
                write_atomically(folder / self.file_of(model, "ply"), formats.ply(cloud))
                write_atomically(folder / self.file_of(model, "glb"), formats.glb(cloud))
        for name, with_id in ((CSV, False), (CSV_WITH_ID, True)):
            text = submission.write(self.verdicts, dataset, image_id=with_id)
            write_atomically(folder / name, text.encode())
        write_atomically(
            folder / CAMERAS, msgspec.json.encode([self._poses(each) for each in self.models])
        )
        write_atomically(folder / PAIRS, msgspec.json.encode(self._pairs()))
        figures = self.figures()
        write_atomically(folder / RESULT, msgspec.json.format(msgspec.json.encode(figures)))
        return figures

    def figures(self) -> dict[str, Any]:
        """Return its figures, JSON values."""
        placed = sum(verdict.pose is not None for verdict in self.verdicts)
        return {
            "n_images": len(self.verdicts),
            "n_registered": placed,
            "registration_rate": round(placed / max(1, len(self.verdicts)), 4),
            "n_points": sum(len(cloud.xyz) for cloud in self.clouds),
            "clusters": [
                self._cluster(at, model, cloud)
                for at, (model, cloud) in enumerate(zip(self.models, self.clouds, strict=True))
            ],
            "images": [
                _image(verdict) | {"shares": held}
                for verdict, held in zip(self.verdicts, self._shares(), strict=True)
            ],
            "advice": self.advice,
            "partial": self.partial,
            "csv": CSV,
            "cameras": CAMERAS,
            "pairs": PAIRS,
            "report": REPORT,
        }

    def _shares(self) -> Iterator[dict[str, float]]:
        photos = (verdict.photo for verdict in self.verdicts)
        return shares.photo_flags(
            [shares.PhotoFacts(each.digest, each.exif if each.file else None) for each in photos]
        )

    def _pairs(self) -> list[dict[str, Any]]:
        """Return the matched pairs, those with most matches first."""
        names = {each.photo.file: each.photo.name for each in reversed(self.verdicts)}
        pairs = sorted(self.graph.pairs, key=lambda pair: -pair.inliers)
        return [
            {"first": names[pair.first], "second": names[pair.second], "inliers": pair.inliers}
            for pair in pairs
        ]

    def _poses(self, model: Model) -> dict[str, Any]:
        """Return a model's cameras, in pixels of the original photographs."""
        photos: dict[str, list[Photo]] = {}  # several where some are the same
        for verdict in self.verdicts:
            photos.setdefault(verdict.photo.file, []).append(verdict.photo)
        views = [camera(view, photo) for view in model.views for photo in photos[view.file]]
        return {"model": model.name, "views": views}

    def _cluster(self, at: int, model: Model, cloud: Cloud) -> dict[str, Any]:
        points = len(cloud.xyz)
        return {
            "id": at,
            "name": model.name,
            "num_images": len(model.views),
            "num_points3D": points,
            "num_sparse_points": len(model.xyz),
            "mean_reprojection_error": round(float(np.mean(model.errors)), 4) if points else None,
            "filename": self.file_of(model, "ply") if points else None,
            "glb": self.file_of(model, "glb") if points else None,
            "unit": "metre" if model.scale else None,
            "scale_error": model.scale.error if model.scale else None,
        }


def camera(view: View, photo: Photo) -> dict[str, Any]:
    """Return a placed photograph's camera, in pixels of the original."""
    # The sides of the working copy are rounded, each by itself; the longer one is exact.
    scale = np.divide(photo.original, (photo.width, photo.height))
    exact = max(photo.original) / max(photo.width, photo.height)
    return {
        "image": photo.name,
        "width": photo.original[0],
        "height": photo.original[1],
        "focal": float(view.matrix[0, 0] * exact),
        "centre": (view.matrix[:2, 2] * scale).tolist(),
        "k1": view.distortion,
        "rotation": view.rotation.tolist(),
        "translation": view.translation.tolist(),
    }


def _image(verdict: Verdict) -> dict[str, Any]:
    return {
        "name": verdict.photo.name,
        "path": verdict.photo.path,
        "scene": verdict.scene,
        "model": verdict.model or None,
        "status": verdict.status,
        "reason": verdict.reason or None,
        "keypoints": verdict.keypoints,
        "measures": {name: round(value, 4) for name, value in verdict.photo.measured.items()},
    }
