"""What turns the answers of a family of segmentation networks into segments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import torch

    from mataserver_hf.segment_mask import Found, Size


class Reader(Protocol):
    """Turns what a family of networks answers into segments.

    outputs: the names of the outputs that it reads.
    modes:   the modes that it knows, ``auto`` among them.
    tasks:   what the network is given beside an image, by mode; empty if it is not told.
    """

    auto: str
    modes: Sequence[str]
    outputs: tuple[str, ...]
    tasks: Mapping[str, torch.Tensor]

    def read(
        self, answers: Sequence[torch.Tensor], size: Size, mode: str, confidence: float
    ) -> Iterator[Found]:
        """Yield the segments of one image, whose ``size`` is (height, width)."""
        ...
