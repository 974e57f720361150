"""Object detection with the DETR family.

DETR (Carion et al. 2020, arXiv:2005.12872), Conditional DETR (arXiv:2108.06152), Deformable DETR
(arXiv:2010.04159), YOLOS (arXiv:2106.00666), RT-DETR (arXiv:2304.08069), RT-DETRv2
(arXiv:2407.17140), D-FINE (arXiv:2410.13842) and Table Transformer (arXiv:2110.00061).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mataserver import Confidence, Params
from mataserver_hf import installation
from mataserver_hf.boxes import result

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mataserver import DetectResult, LoadContext, ModelSpec
    from mataserver_hf.network import Network
    from mataserver_hf.preprocessor import Preprocessor

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
"""The values of ``model_type`` that it serves."""

_NO_THRESHOLD = -1.0  # below any score: every image of a batch has its own threshold


class DetectParams(Params, frozen=True):
    """``confidence``: the lowest score of a detection that is returned."""

    confidence: Confidence = 0.5


class Detector:
    """A detector of the DETR family: a fixed number of queries, no non-maximum suppression."""

    def __init__(self, network: Network, preprocessor: Preprocessor) -> None:
        """Keep the loaded parts."""
        self._network = network
        self._preprocessor = preprocessor
        self._labels = network.labels

    @property
    def input_size(self) -> tuple[int, int] | None:
        """The ``(height, width)`` that images are resized to."""
        return self._preprocessor.input_size

    @property
    def labels(self) -> Sequence[str]:
        """The labels that detections can have."""
        return self._labels

    def predict(
        self, images: Sequence[NDArray[np.uint8]], params: Sequence[DetectParams]
    ) -> list[DetectResult]:
        """Return the detections of each image, best first."""
        found: dict[int, DetectResult] = {}
        for indices, tensors in self._preprocessor.groups(images):
            output = self._network.run(tensors)
            output.logits = self._network.finite(output.logits)
            output.pred_boxes = self._network.finite(output.pred_boxes)
            sizes = [images[index].shape[:2] for index in indices]
            answers = self._preprocessor.processor.post_process_object_detection(
                output,
                threshold=_NO_THRESHOLD,
                target_sizes=[self._preprocessor.frame(size) for size in sizes],
            )
            for index, size, answer in zip(indices, sizes, answers, strict=True):
                kept = answer["scores"] >= params[index].confidence
                labels = [self._labels[label] for label in answer["labels"][kept].tolist()]
                found[index] = result(labels, answer["scores"][kept], answer["boxes"][kept], size)
        return [found[index] for index in range(len(images))]

    def close(self) -> None:
        """Free the weights."""
        self._network.close()


def load(spec: ModelSpec, ctx: LoadContext) -> Detector:
    """Load a detector.

    Raises ``MataError`` for a checkpoint that is incomplete or made for another task, and
    ``Unavailable`` for a missing package or device.
    """
    installation.check()
    from transformers import AutoModelForObjectDetection

    from mataserver_hf.checkpoint import Checkpoint

    checkpoint = Checkpoint(spec, ctx)
    network = checkpoint.network(AutoModelForObjectDetection)
    return checkpoint.compiled(
        Detector(network, checkpoint.uncropped_preprocessor()), DetectParams()
    )


BACKEND = installation.backend(
    name="hf-detect",
    task="detect",
    load=load,
    params=DetectParams,
    accepts=FAMILIES,
    compiles=True,
)
