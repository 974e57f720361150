"""Segmentation: the pixels of each object, or of each class.

Networks with a score per class and pixel: SegFormer (arXiv:2105.15203), UPerNet (arXiv:1807.10221),
BEiT (arXiv:2106.08254). Networks with mask queries: DETR
(arXiv:2005.12872), MaskFormer (arXiv:2107.06278), Mask2Former (arXiv:2112.01527), OneFormer
(arXiv:2211.06220), EoMT (arXiv:2503.19108).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from mataserver import (
    Confidence,
    InvalidParams,
    Params,
    Segment,
    SegmentResult,
)
from mataserver_hf import installation

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from mataserver import Box, LoadContext, ModelFiles, ModelSpec
    from mataserver_hf.network import Network
    from mataserver_hf.preprocessor import Preprocessor
    from mataserver_hf.segment_mask import ScoredMask
    from mataserver_hf.segment_reader import SegmentReader

CLASS_FAMILIES = frozenset({"beit", "segformer", "upernet"})
"""The values of ``model_type`` that it serves if they have a head for semantic segmentation."""

QUERY_FAMILIES = frozenset({"eomt", "eomt_dinov3", "mask2former", "maskformer", "oneformer"})
"""The values of ``model_type`` that it always serves; beside them DETR with a mask head."""


class SegmentParams(Params, frozen=True):
    """What to look for.

    confidence: the lowest score of a segment that is returned. In semantic segmentation a score is
                the mean probability of the class over the segment's pixels; of an instance it is
                the class's probability times the mean probability of the mask; in panoptic
                segmentation the class's probability, and weaker segments do not compete for pixels.
    mode:       "semantic" is one segment per class; "instance" one per object, which may overlap;
                "panoptic" one per object or region, none of which overlap. "auto" is what the
                checkpoint was made for. Networks with a score per class and pixel know "semantic"
                only, EoMT's checkpoints either "semantic" or the other two.
    """

    confidence: Confidence = 0.5
    mode: Literal["auto", "semantic", "instance", "panoptic"] = "auto"


class Segmenter:
    """A segmentation network and the reader of its outputs."""

    def __init__(self, network: Network, preprocessor: Preprocessor, reader: SegmentReader) -> None:
        """Keep the loaded parts."""
        self._network = network
        self._preprocessor = preprocessor
        self._reader = reader
        self._labels = network.labels

    @property
    def input_size(self) -> tuple[int, int] | None:
        """The least height and width that images are resized to; None if they are not."""
        return self._preprocessor.input_size

    def predict(
        self, images: Sequence[NDArray[np.uint8]], params: Sequence[SegmentParams]
    ) -> list[SegmentResult]:
        """Return the segments of each image, best first.

        Raises ``InvalidParams`` for a mode that this network does not support.
        """
        modes = [self._mode(each.mode) for each in params]
        results: dict[int, SegmentResult] = {}
        for indices, tensors in self._preprocessor.groups(images):
            task_inputs = self._task_inputs([modes[index] for index in indices])
            output = self._network.run({**tensors, **task_inputs})
            answers = [self._network.finite(getattr(output, name)) for name in self._reader.outputs]
            # EoMT splits an image into several pieces: all images of a group into equally many.
            rows = zip(*(each.chunk(len(indices)) for each in answers), strict=True)
            for index, row in zip(indices, rows, strict=True):
                height, width = images[index].shape[:2]
                maps = self._preprocessor.without_border(row[-1], (height, width))
                found = self._reader.read(
                    (*row[:-1], maps), (height, width), modes[index], params[index].confidence
                )
                results[index] = self._result(found)
        return [results[index] for index in range(len(images))]

    def close(self) -> None:
        """Free the weights."""
        self._network.close()

    def _mode(self, wanted: str) -> str:
        mode = self._reader.auto if wanted == "auto" else wanted
        if mode not in self._reader.modes:
            raise InvalidParams(
                f"params.mode: this model knows {' and '.join(self._reader.modes)} only"
            )
        return mode

    def _task_inputs(self, modes: Sequence[str]) -> dict[str, torch.Tensor]:
        if not self._reader.tasks:
            return {}
        import torch

        return {"task_inputs": torch.stack([self._reader.tasks[mode] for mode in modes])}

    def _result(self, found: Iterator[ScoredMask]) -> SegmentResult:
        segments = [
            segment_of_mask(self._labels[each.label], each.confidence, each.mask) for each in found
        ]
        return SegmentResult(sorted(segments, key=lambda each: -each.confidence))


def segment_of_mask(label: str, confidence: float, mask: Any) -> Segment:
    """Return the segment of a boolean tensor ``[H, W]`` with at least one true pixel.

    Its box spans from the left and upper edge of the outermost pixels to their right and lower
    edge: a single pixel (x, y) has the box (x, y, x + 1, y + 1).
    """
    pixels: Any = mask.cpu().numpy()
    rows, columns = (pixels.any(axis).nonzero()[0] for axis in (1, 0))
    box: Box = (
        float(columns[0]),
        float(rows[0]),
        float(columns[-1] + 1),
        float(rows[-1] + 1),
    )
    return Segment(label, confidence, box, pixels)


def load(spec: ModelSpec, ctx: LoadContext) -> Segmenter:
    """Load a segmentation network.

    Raises ``MataError`` for a checkpoint that is incomplete or made for another task, and
    ``Unavailable`` for a missing package or device.
    """
    installation.check()
    from mataserver_hf.segment_checkpoint import SegmentCheckpoint

    checkpoint = SegmentCheckpoint(spec, ctx)
    return checkpoint.compiled(Segmenter(*checkpoint.open()), SegmentParams())


def accepts(files: ModelFiles) -> bool:
    """Whether the checkpoint has mask queries or a head for semantic segmentation."""
    if files.model_type in QUERY_FAMILIES:
        return True
    architectures = [str(name) for name in files.config.get("architectures") or ()]
    if files.model_type == "detr":
        return "DetrForSegmentation" in architectures
    return files.model_type in CLASS_FAMILIES and any(
        name.endswith("ForSemanticSegmentation") for name in architectures
    )


BACKEND = installation.backend(
    name="hf-segment",
    task="segment",
    load=load,
    params=SegmentParams,
    accepts=accepts,
    compiles=True,
)
