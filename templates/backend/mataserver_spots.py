"""A detector of spots of one colour; the colour's mean and spread come from training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mataserver import Backend, BadRequest, Confidence, Detection, DetectResult, Params, hookimpl

if TYPE_CHECKING:
    from mataserver import LoadContext, ModelFiles, ModelSpec

WEIGHTS = "weights.npz"


class SpotsParams(Params, frozen=True):
    """Parameters of a request.

    confidence: Spots below this are left out.
    """

    confidence: Confidence = 0.5


class Spots:
    """The model. ``mean`` and ``spread`` are float32 arrays [3], of RGB from 0 to 255."""

    def __init__(self, mean: Any, spread: Any, label: str) -> None:
        self._mean = mean
        self._spread = spread
        self._label = label

    def predict(self, images: Any, params: Any) -> list[DetectResult]:
        """Return the detections in each picture, an RGB array [H, W, 3] of any size."""
        return [self._detect(*pair) for pair in zip(images, params, strict=True)]

    def _detect(self, image: Any, params: SpotsParams) -> DetectResult:
        distance = np.linalg.norm((image - self._mean) / self._spread, axis=2)
        likelihood = np.exp(-(distance**2) / 2)
        rows, columns = np.nonzero(likelihood > 0.5)
        confidence = float(likelihood[rows, columns].mean()) if rows.size else 0.0
        if confidence <= params.confidence:
            return DetectResult([])
        box = (float(columns.min()), float(rows.min()), columns.max() + 1.0, rows.max() + 1.0)
        return DetectResult([Detection(self._label, confidence, box)])


def accepts(files: ModelFiles) -> bool:
    """Whether a model is of this kind. Raises ``BadRequest`` if its weights are missing."""
    if files.model_type != "spots":
        return False
    if files.path is not None and not (files.path / WEIGHTS).is_file():
        raise BadRequest(f"the model has no {WEIGHTS}")
    return True


def load(spec: ModelSpec, _ctx: LoadContext) -> Spots:
    """Load the model, in its worker."""
    folder = Path(spec.path or "")
    with np.load(folder / WEIGHTS) as weights:  # numpy does not unpickle by default
        return Spots(weights["mean"], weights["spread"], spec.name)


@hookimpl
def backends() -> list[Backend]:
    """Return the backend."""
    return [
        Backend(name="spots", task="detect", source="local", load=load, accepts=accepts,
                params=SpotsParams, max_batch=8),
    ]  # fmt: skip
