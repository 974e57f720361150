"""Object detection: the families of YOLO and of DETR."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from mataserver import Backend, Confidence, Detection, DetectResult, Params
from mataserver_onnx import installation

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mataserver import LoadContext, ModelSpec
    from mataserver_onnx.network import Network
    from mataserver_onnx.raw_detections import Detections

FAMILIES = frozenset(
    {
        "conditional_detr",
        "d_fine",
        "deformable_detr",
        "detr",
        "rt_detr",
        "rt_detr_v2",
        "table-transformer",
        "yolos",
    }
)
"""The values of ``model_type`` that are pulled from the hub as ONNX for this task."""

_PAIRS = {"conditional_detr": 100, "deformable_detr": 100}
"""How many detections the reference implementation reads; for other families one per query."""


class DetectParams(Params, frozen=True):
    """What to return.

    confidence: the lowest score of a detection.
    overlap:    two boxes of one class that overlap by more (intersection over union) are one
                object; for YOLO's networks that leave this to whoever reads them.
    """

    confidence: Confidence = 0.5
    overlap: Confidence = 0.7


class Detector:
    """A detector: a network and its layout."""

    def __init__(self, network: Network) -> None:
        """Keep the network."""
        self._network = network

    @property
    def input_size(self) -> tuple[int, int] | None:
        """The smallest (height, width) that images are resized to; None if they are not."""
        return self._network.input_size

    @property
    def labels(self) -> Sequence[str] | None:
        """The labels that detections can have; None if the network's classes have no names."""
        return self._network.labels.all()

    def predict(
        self, images: Sequence[NDArray[np.uint8]], params: Sequence[DetectParams]
    ) -> list[DetectResult]:
        """Return the detections of each image, best first."""
        from mataserver_onnx import boxes, detections

        labels = self._network.labels
        most = _PAIRS.get(str(self._network.bundle.config.get("model_type")))
        results: dict[int, DetectResult] = {}
        for index, outputs, place in self._network.run(images):
            options = self._network.read_options(
                params[index].confidence, params[index].overlap, most
            )
            found = detections.read(self._network.layout, outputs, place, options)
            rows = zip(found.labels, found.scores, found.boxes, _extras(found), strict=True)
            results[index] = DetectResult(
                [
                    Detection(
                        labels[int(label)],
                        float(score),
                        boxes.clip(box, place.size),
                        extra=extra,
                    )
                    for label, score, box, extra in rows
                ]
            )
        return [results[index] for index in range(len(images))]

    def close(self) -> None:
        """Free the network."""
        self._network.close()


def _extras(found: Detections) -> Iterable[dict[str, Any]]:
    """Yield the extra fields of each detection: the corners of a rotated box."""
    if found.rotated_corners is None:
        return ({} for _ in found.scores)
    return ({"corners": points} for points in found.rotated_corners.tolist())


def load(spec: ModelSpec, ctx: LoadContext) -> Detector:
    """Open a detector. Raises ``MataError`` for a network that cannot be used."""
    from mataserver_onnx.network import Network

    return Detector(Network(spec, ctx))


BACKEND = Backend(
    name="onnx-detect",
    task="detect",
    source="any",
    load=load,
    params=DetectParams,
    accepts=installation.accepting("detect", FAMILIES),
    requires=installation.REQUIRES,
    gpu=installation.GPU,
    packages=installation.PACKAGES,
    environment=installation.ENVIRONMENT,
    facts=partial(installation.facts, "detect"),
)
