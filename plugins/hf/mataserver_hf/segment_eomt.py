"""Reads EoMT (arXiv:2503.19108), a plain vision transformer with mask queries.

Checkpoints for semantic segmentation split an image into overlapping squares along its longer side;
the others pad it to a square. Only ``load`` imports this module.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from transformers.image_transforms import get_size_with_aspect_ratio

from mataserver import MataError
from mataserver_hf.segment_mask import ScoredMask, assign_pixels, semantic, stretch
from mataserver_hf.segment_queries import class_scores

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    import torch

    from mataserver_hf.segment_mask import Size


class EomtReader:
    """Reads EoMT."""

    outputs: tuple[str, ...] = ("class_queries_logits", "masks_queries_logits")
    tasks: Mapping[str, torch.Tensor] = MappingProxyType({})

    def __init__(self, auto: str, processor: Any) -> None:
        """Keep the sizes of ``processor``; ``auto`` applies to checkpoints that pad.

        Raises ``MataError`` for one that splits images of a limited longer side: the squares would
        be larger than the image.
        """
        self._split = bool(processor.do_split_image)
        self._resizes = bool(processor.do_resize)
        self._short: int = processor.size["shortest_edge"]
        self._long: int | None = processor.size["longest_edge"]
        if self._split and self._long:
            raise MataError(
                "the model's image processor splits images (do_split_image) and limits their "
                "longer side (longest_edge), which no EoMT does"
            )
        self.modes: Sequence[str] = ("semantic",) if self._split else ("instance", "panoptic")
        self.auto = auto if auto in self.modes else self.modes[-1]

    def read(
        self, answers: Sequence[torch.Tensor], size: Size, mode: str, confidence: float
    ) -> Iterator[ScoredMask]:
        """Yield the segments of one image; ``answers`` are float32 ``[squares, ...]``."""
        classes, masks = answers
        if mode == "semantic":
            scores = self._merged(classes, masks, size)
            return semantic(scores, scores, size, confidence)
        if mode == "instance":
            return self._instances(classes[0], masks[0], size, confidence)
        return self._panoptic(classes[0], masks[0], size, confidence)

    def _square(self) -> Size:
        return self._short, self._long or self._short

    def _inner(self, size: Size) -> Size:
        """Return the size to which an image of ``size`` is resized before it is split or padded."""
        if not self._resizes:
            return size
        height, width = get_size_with_aspect_ratio(size, self._short, self._long)
        return height, width

    def _merged(self, classes: torch.Tensor, masks: torch.Tensor, size: Size) -> torch.Tensor:
        """Join the squares' class scores to ``[C, h, w]``; overlaps are averaged.

        ``size`` says which side is the longer one; a square image has one square.
        """
        height, width = self._inner(size)
        tall, edge, count = size[0] > size[1], self._short, len(classes)
        overlap = (count * edge - max(height, width)) / (count - 1) if count > 1 else 0.0
        total = masks.new_zeros(classes.shape[-1] - 1, height, width)
        layers = masks.new_zeros(height, width)
        for index in range(count):
            scores = class_scores(classes[index], stretch(masks[index], self._square()))
            start = int(index * (edge - overlap))
            here = slice(start, start + edge)
            place = (here, slice(None)) if tall else (slice(None), here)
            total[:, *place] += scores
            layers[place] += 1
        return total / layers.clamp(min=1)

    def _logits(self, masks: torch.Tensor, size: Size) -> torch.Tensor:
        """Stretch masks ``[n, h, w]`` to ``size``, without the padding."""
        height, width = self._inner(size)
        return stretch(stretch(masks, self._square())[:, :height, :width], size)

    def _instances(
        self, classes: torch.Tensor, masks: torch.Tensor, size: Size, confidence: float
    ) -> Iterator[ScoredMask]:
        scores, labels = classes.softmax(-1)[:, :-1].max(-1)
        for query in (scores >= confidence).nonzero()[:, 0].tolist():
            [logits] = self._logits(masks[query : query + 1], size)
            mask = logits > 0
            area = mask.sum()
            product = (scores[query] * (logits.sigmoid() * mask).sum() / (area + 1e-6)).item()
            if area and product >= confidence:
                yield ScoredMask(int(labels[query]), product, mask)

    def _panoptic(
        self, classes: torch.Tensor, masks: torch.Tensor, size: Size, confidence: float
    ) -> Iterator[ScoredMask]:
        scores, labels = classes.softmax(-1).max(-1)
        kept = (labels < classes.shape[-1] - 1) & (scores >= confidence)
        if not kept.any():
            return
        scores, labels, masks = scores[kept], labels[kept], masks[kept]

        def stretched(part: torch.Tensor) -> torch.Tensor:
            return self._logits(part, size).sigmoid()

        for index, mask in assign_pixels(masks, scores, stretched, size, strict=True):
            yield ScoredMask(int(labels[index]), scores[index].item(), mask)
