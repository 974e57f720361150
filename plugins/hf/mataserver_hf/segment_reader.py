"""The interface that turns the outputs of a family of segmentation networks into segments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import torch

    from mataserver_hf.segment_mask import ScoredMask, Size


class SegmentReader(Protocol):
    """Turns the outputs of a family of networks into segments.

    outputs: the names of the outputs that it reads.
    modes:   the modes that it supports, ``auto`` among them.
    tasks:   the network's extra input by mode; empty if it takes none.
    """

    auto: str
    modes: Sequence[str]
    outputs: tuple[str, ...]
    tasks: Mapping[str, torch.Tensor]

    def read(
        self, answers: Sequence[torch.Tensor], size: Size, mode: str, confidence: float
    ) -> Iterator[ScoredMask]:
        """Yield the segments of one image, whose ``size`` is (height, width)."""
