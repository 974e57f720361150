"""What networks with a logit per class and pixel say. Only ``load`` imports this module."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from mataserver_hf.segment_mask import semantic

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import torch

    from mataserver_hf.segment_mask import Found, Size


class ClassReader:
    """Reads SegFormer and its like: semantic segmentation and nothing else."""

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
    ) -> Iterator[Found]:
        """Yield one segment per class that is the likeliest somewhere.

        ``answers`` holds the float32 logits ``[1, C, h, w]``. The stretched logits decide; the
        probabilities are their softmax at the network's own resolution. The logit of a single class
        stands for itself, as SegFormer's are trained.
        """
        [logits] = answers[0]
        shares = logits.sigmoid() if len(logits) == 1 else logits.softmax(0)
        return semantic(logits, shares, size, confidence)
