"""Reads networks with mask queries: each query is a class, or none, and a mask.

The methods are those of MaskFormer (arXiv:2107.06278) and Mask2Former (arXiv:2112.01527), as
transformers implements them, but without torchvision and without a map of the image's size for
every query at once. Only ``load`` imports this module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import interpolate

from mataserver_hf.segment_mask import ScoredMask, assign_pixels, semantic, stretch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mataserver_hf.segment_mask import Size

MODES = ("semantic", "instance", "panoptic")


class QueryReader:
    """Reads MaskFormer, DETR, with ``side`` Mask2Former and with ``tasks`` OneFormer.

    outputs:     the names of the class logits ``[B, Q, C + 1]`` and mask logits ``[B, Q, h, w]``.
    side:        masks are first resized to this many rows and columns.
    overlapping: whether instances may share pixels, as in MaskFormer; DETR's may not.
    stuff:       classes that have at most one segment in a panoptic result.
    tasks:       the tokens ``[L]`` that select each of OneFormer's modes.
    """

    modes: Sequence[str] = MODES

    def __init__(
        self,
        auto: str,
        *,
        outputs: tuple[str, ...] = ("class_queries_logits", "masks_queries_logits"),
        side: int | None = None,
        overlapping: bool = True,
        stuff: frozenset[int] = frozenset(),
        tasks: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        """Keep how the family's outputs are read."""
        self.tasks = tasks or {}
        self.auto = auto
        self.outputs = outputs
        self._side = side
        self._overlapping = overlapping
        self._stuff = stuff

    def read(
        self, answers: Sequence[torch.Tensor], size: Size, mode: str, confidence: float
    ) -> Iterator[ScoredMask]:
        """Yield the segments of one image; ``answers`` are float32 ``[1, ...]``."""
        classes, masks = (each[0] for each in answers)
        if self._side is not None:
            masks = stretch(masks, (self._side, self._side))
        if mode == "semantic":
            scores = class_scores(classes, masks)
            return semantic(scores, scores, size, confidence)
        if mode == "instance" and self._overlapping:
            return instances(classes, masks, size, confidence)
        stuff = self._stuff if mode == "panoptic" else frozenset()
        return panoptic(classes, masks, size, confidence, stuff)


def class_scores(classes: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Return a score per class and pixel, ``[C, h, w]``: the sum over all queries."""
    shares = classes.softmax(-1)[:, :-1]
    return torch.einsum("qc,qhw->chw", shares, masks.sigmoid())


def instances(
    classes: torch.Tensor, masks: torch.Tensor, size: Size, confidence: float
) -> Iterator[ScoredMask]:
    """Yield the best pairs of query and class, as many as there are queries; they may overlap.

    The confidence is the class's probability times the mean probability of the mask's pixels.
    """
    shares = classes.softmax(-1)[:, :-1]
    scores, places = shares.flatten().topk(len(masks))
    queries = places // shares.shape[1]
    inside = masks > 0
    areas = inside.flatten(1).sum(1)
    sureness = (masks.sigmoid() * inside).flatten(1).sum(1) / (areas + 1e-6)
    products = scores * sureness[queries]
    for place, query, product in zip(
        places.tolist(), queries.tolist(), products.tolist(), strict=True
    ):
        if product < confidence or not areas[query]:
            continue
        mask = interpolate(inside[query].float()[None, None], size=size, mode="nearest")[0, 0] > 0
        if mask.any():  # an image with fewer pixels than the map may have none of the mask's
            yield ScoredMask(place % shares.shape[1], product, mask)


def panoptic(
    classes: torch.Tensor,
    masks: torch.Tensor,
    size: Size,
    confidence: float,
    stuff: frozenset[int],
) -> Iterator[ScoredMask]:
    """Yield segments that share no pixel; the confidence is the class's probability.

    Queries below ``confidence`` take no pixels from others. Segments of one class of ``stuff`` are
    joined and keep the highest confidence.
    """
    scores, labels = classes.softmax(-1).max(-1)
    kept = (labels < classes.shape[-1] - 1) & (scores >= confidence)
    if not kept.any():
        return
    scores, labels, masks = scores[kept], labels[kept], masks[kept].sigmoid()
    joined: dict[int, ScoredMask] = {}
    for index, mask in assign_pixels(
        masks, scores, lambda part: stretch(part, size), size, strict=False
    ):
        found = ScoredMask(int(labels[index]), scores[index].item(), mask)
        if found.label not in stuff:
            yield found
        elif found.label in joined:
            other = joined[found.label]
            best = max(found.confidence, other.confidence)
            joined[found.label] = ScoredMask(found.label, best, mask | other.mask)
        else:
            joined[found.label] = found
    yield from joined.values()
