"""Segmentation: the pixels of each class, or of each object."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from mataserver import Backend, Confidence, Params, Segment, SegmentResult
from mataserver_onnx import installation

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mataserver import LoadContext, ModelSpec
    from mataserver_onnx.masks import ScoredMask
    from mataserver_onnx.network import Network
    from mataserver_onnx.preparation import Placement

FAMILIES = frozenset({"beit", "segformer", "upernet"})
"""The values of ``model_type`` that are pulled from the hub as ONNX for this task."""


class SegmentParams(Params, frozen=True):
    """What to return.

    confidence: the lowest score of a segment. Of a class it is the mean probability over the
                segment's pixels, of an object the detector's score.
    overlap:    two objects of one class whose boxes overlap by more are one.
    """

    confidence: Confidence = 0.5
    overlap: Confidence = 0.7


class Segmenter:
    """A network that predicts a class per pixel, or a mask per object."""

    def __init__(self, network: Network) -> None:
        """Keep the network; for class maps, determine which activation the scores need.

        Raises ``MataError`` when its outputs contradict its file.
        """
        from mataserver_onnx import scores

        self._network = network
        self._activation: scores.ScoreActivation | None = None
        if network.layout == "semantic":
            self._activation = scores.find(network)

    @property
    def input_size(self) -> tuple[int, int] | None:
        """The ``(height, width)`` that images are resized to, if the graph fixes it."""
        return self._network.input_size

    def predict(
        self, images: Sequence[NDArray[np.uint8]], params: Sequence[SegmentParams]
    ) -> list[SegmentResult]:
        """Return the segments of each image, best first."""
        results: dict[int, SegmentResult] = {}
        for index, outputs, place in self._network.run(images):
            segments = [self._segment(each) for each in self._read(outputs, place, params[index])]
            results[index] = SegmentResult(sorted(segments, key=lambda each: -each.confidence))
        return [results[index] for index in range(len(images))]

    def close(self) -> None:
        """Free the network."""
        self._network.close()

    def _read(
        self, outputs: list[NDArray[np.float32]], place: Placement, params: SegmentParams
    ) -> Iterator[ScoredMask]:
        from mataserver_onnx import masks, scores

        if self._activation is None:
            options = self._network.read_options(params.confidence, params.overlap)
            return masks.instances(self._network.layout, outputs, place, options)
        self._network.labels.check(len(outputs[0]))
        shares = scores.apply(self._activation, outputs[0], axis=0)
        return masks.semantic(
            outputs[0],
            shares,
            place.size,
            params.confidence,
            independent=self._activation.is_independent,
        )

    def _segment(self, found: ScoredMask) -> Segment:
        """Return a segment whose box spans the outer edges of its outermost pixels."""
        from mataserver_onnx import masks

        rows, columns = masks.bounds(found.mask)
        box = (
            float(columns.start),
            float(rows.start),
            float(columns.stop),
            float(rows.stop),
        )
        return Segment(self._network.labels[found.label], found.confidence, box, found.mask)


def load(spec: ModelSpec, ctx: LoadContext) -> Segmenter:
    """Open a segmentation network. Raises ``MataError`` for one that cannot be used."""
    from mataserver_onnx.network import Network

    return Segmenter(Network(spec, ctx))


BACKEND = Backend(
    name="onnx-segment",
    task="segment",
    source="any",
    load=load,
    params=SegmentParams,
    accepts=installation.accepting("segment", FAMILIES),
    requires=installation.REQUIRES,
    gpu=installation.GPU,
    packages=installation.PACKAGES,
    environment=installation.ENVIRONMENT,
    facts=partial(installation.facts, "segment"),
)
