"""Grounded SAM (arXiv:2401.14159): Grounding DINO detects by text, a SAM segments each box."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from mataserver import Segment, SegmentResult, Unavailable
from mataserver_sam.boxes import centred, scaled

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mataserver import LoadedPart
    from mataserver_sam.params import GroundedParams

    Image = NDArray[np.uint8]


class GroundedSegmenter:
    """A detector that takes text, and a SAM that segments each of its boxes."""

    def __init__(self, detector: LoadedPart, segmenter: LoadedPart) -> None:
        """Keep the parts. Raises ``Unavailable`` for a segmenter that is not this plugin's."""
        self._detector = detector
        self._segmenter: Any = segmenter.model
        if not hasattr(self._segmenter, "outlines"):
            raise Unavailable("plugins.sam.segmenter names a model that is not a SAM")

    def predict(
        self, images: Sequence[Image], params: Sequence[GroundedParams]
    ) -> list[SegmentResult]:
        """Return the segments of each image in the detector's order.

        Label, confidence and box are the detector's; each mask is that of its box. A box with an
        empty mask is left out. Raises ``InvalidParams`` for missing prompts.
        """
        for each in params:
            each.check()
        inputs = [self._inputs(each) for each in params]
        results: Any = self._detector.model.predict(images, inputs)
        return [
            self._segment_boxes(image, result.detections, each.segmentation_confidence)
            for image, result, each in zip(images, results, params, strict=True)
        ]

    def _inputs(self, params: GroundedParams) -> Any:
        given = {"prompts": list(params.prompts), "confidence": params.detection_confidence}
        return msgspec.convert(given, self._detector.params)

    def _segment_boxes(
        self, image: Image, detections: Sequence[Any], confidence: float
    ) -> SegmentResult:
        height, width = image.shape[:2]
        boxes = [centred(scaled(each.bbox, 1 / width, 1 / height)) for each in detections]
        found = self._segmenter.outlines(image, boxes)
        return SegmentResult(
            [
                Segment(each.label, each.confidence, each.bbox, mask.full())
                for each, outline in zip(detections, found, strict=True)
                if outline.score >= confidence and (mask := outline.mask()).area
            ]
        )
