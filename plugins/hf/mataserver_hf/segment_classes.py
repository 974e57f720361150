"""Reads networks with a logit per class and pixel. Only ``load`` imports this module."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from mataserver_hf.segment_mask import semantic

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import torch

    from mataserver_hf.segment_mask import ScoredMask, Size


class ClassReader:
    """Reads SegFormer and similar networks, for semantic segmentation only."""

    auto: str = "semantic"
    modes: Sequence[str] = ("semantic",)
    outputs: tuple[str, ...] = ("logits",)
    tasks: Mapping[str, torch.Tensor] = MappingProxyType({})

    def read(
        self,
        answers: Sequence[torch.Tensor],
        size: Size,
        mode: str,  # noqa: ARG002 - there is one
        confidence: float,
    ) -> Iterator[ScoredMask]:
        """Yield one segment per class that has the highest score somewhere.

        ``answers`` holds the float32 logits ``[1, C, h, w]``. The resized logits decide; the
        probabilities are their softmax at the network's own resolution, or the sigmoid of a single
        class, as SegFormer is trained.
        """
        [logits] = answers[0]
        shares = logits.sigmoid() if len(logits) == 1 else logits.softmax(0)
        return semantic(logits, shares, size, confidence)
