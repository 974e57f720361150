"""Poses: the keypoints of each instance, by networks that return both at once."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from mataserver import Backend, Confidence, Keypoint, Params, PoseResult
from mataserver_onnx import installation

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mataserver import LoadContext, ModelSpec
    from mataserver_onnx.network import Network
    from mataserver_onnx.preparation import Placement
    from mataserver_onnx.raw_detections import Detections


class PoseParams(Params, frozen=True):
    """What to return.

    confidence: the lowest score of an instance; its keypoints are all kept.
    overlap:    two instances of a class whose boxes overlap by more are one; for networks that
                leave this to whoever reads them.
    """

    confidence: Confidence = 0.5
    overlap: Confidence = 0.7


class PoseEstimator:
    """A detector that also returns the keypoints of each instance."""

    def __init__(self, network: Network) -> None:
        """Keep the network."""
        self._network = network

    @property
    def input_size(self) -> tuple[int, int] | None:
        """The smallest (height, width) that images are resized to; None if they are not."""
        return self._network.input_size

    def predict(
        self, images: Sequence[NDArray[np.uint8]], params: Sequence[PoseParams]
    ) -> list[PoseResult]:
        """Return the instances of each image, best first."""
        from mataserver_onnx import detections

        network = self._network
        results: dict[int, PoseResult] = {}
        for index, outputs, place in network.run(images):
            own = params[index]
            options = network.read_options(own.confidence, own.overlap)
            found = detections.read(network.layout, outputs, place, options)
            results[index] = PoseResult(self._instances(found, outputs[0], place))
        return [results[index] for index in range(len(images))]

    def close(self) -> None:
        """Free the network."""
        self._network.close()

    def _instances(
        self, found: Detections, answers: NDArray[np.float32], place: Placement
    ) -> list[Keypoint]:
        from mataserver_onnx import boxes

        tails = self._tails(found, answers)
        rows = zip(found.labels, found.scores, found.boxes, tails, strict=True)
        return [
            Keypoint(
                self._network.labels[int(label)],
                float(score),
                boxes.clip(box, place.size),
                self._points(tail, place),
            )
            for label, score, box, tail in rows
        ]

    def _tails(self, found: Detections, answers: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the keypoints ``[n, K, 2 or 3]`` of the detections, in the input's pixels."""
        from mataserver_onnx.yolo import FORMS

        rows = answers.T if FORMS[self._network.layout].in_columns else answers
        tails: NDArray[np.float32] = rows[found.rows, rows.shape[1] - self._network.tail :]
        return tails.reshape(-1, *self._network.keypoints)

    def _points(
        self, tail: NDArray[np.float32], place: Placement
    ) -> list[tuple[float, float, float]]:
        """Return keypoints in the image's pixels, clipped to it; the confidence defaults to 1."""
        height, width = place.size
        return [
            (
                min(max((float(point[0]) - place.left) / place.scale_x, 0.0), float(width)),
                min(max((float(point[1]) - place.top) / place.scale_y, 0.0), float(height)),
                within_rounding(float(point[2])) if len(point) == 3 else 1.0,
            )
            for point in tail
        ]


def within_rounding(number: float) -> float:
    """Clip a number to 0 to 1 if it is out by rounding only; the core refuses any other."""
    from mataserver_onnx.raw_detections import ROUNDING

    within = min(max(number, 0.0), 1.0)
    return within if abs(number - within) <= ROUNDING else number


def load(spec: ModelSpec, ctx: LoadContext) -> PoseEstimator:
    """Open a pose estimator. Raises ``MataError`` for a network that cannot be used."""
    from mataserver_onnx.network import Network

    return PoseEstimator(Network(spec, ctx))


BACKEND = Backend(
    name="onnx-pose",
    task="pose",
    source="any",
    load=load,
    params=PoseParams,
    accepts=installation.accepting("pose", frozenset()),
    requires=installation.REQUIRES,
    gpu=installation.GPU,
    packages=installation.PACKAGES,
    environment=installation.ENVIRONMENT,
    facts=partial(installation.facts, "pose"),
)
