"""Resizes maps from the network's resolution to the image's, a few at a time.

Only modules that ``load`` imports import this one. A map of 8 million pixels takes 33 MB: a network
with 150 classes would need 5 GB for one image if all were resized at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn.functional import interpolate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Size = tuple[int, int]
    Stretch = Callable[[torch.Tensor], torch.Tensor]

STRETCHED_BYTES = 128 * 2**20
"""Maximum bytes of resized maps held at a time (at least one map)."""
MASK_THRESHOLD = 0.5
"""The least probability of a pixel that belongs to a mask."""
MIN_WON_SHARE = 0.8
"""The share of its own pixels that a mask must win to be kept, as in MaskFormer."""


class ScoredMask(NamedTuple):
    """One segment: class index, confidence in 0..1, and a boolean tensor ``[H, W]``."""

    label: int
    confidence: float
    mask: torch.Tensor


def stretch(maps: torch.Tensor, size: Size) -> torch.Tensor:
    """Resize ``[N, h, w]`` to ``[N, *size]``, bilinearly."""
    return interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]


def largest_maps(stretched: Iterable[torch.Tensor]) -> torch.Tensor:
    """Return the index of the largest map at each pixel, ``[H, W]``; the first of equals.

    ``stretched`` are pieces ``[n, H, W]``; maps are numbered through all pieces.
    """
    # One map at a time: torch's own argmax over the first dimension takes ten times as long.
    maps = (each for piece in stretched for each in piece)
    best = next(maps).clone()
    winner = torch.zeros_like(best, dtype=torch.int16)
    for index, each in enumerate(maps, start=1):
        winner.masked_fill_(each > best, index)
        torch.maximum(best, each, out=best)
    return winner


def semantic(
    scores: torch.Tensor, probabilities: torch.Tensor, size: Size, confidence: float
) -> Iterator[ScoredMask]:
    """Assign each pixel to the class of the largest score; yield one segment per class.

    ``scores`` decide, and the mean of ``probabilities`` (both ``[C, h, w]``) over a segment, at
    most 1, is its confidence. Segments below ``confidence`` are left out. If there is only one
    class, its segment is the pixels of at least ``MASK_THRESHOLD``.
    """
    if len(probabilities) == 1:
        [own] = stretch(probabilities, size)
        mask = own >= MASK_THRESHOLD
        if mask.any() and (mean := own[mask].mean().item()) >= confidence:
            yield ScoredMask(0, min(mean, 1.0), mask)
        return
    winner = largest_maps(stretch(piece, size) for piece in _pieces(scores, size))
    for label in torch.bincount(winner.flatten()).nonzero()[:, 0].tolist():
        mask = winner == label
        mean = stretch(probabilities[label : label + 1], size)[0][mask].mean().item()
        if mean >= confidence:
            yield ScoredMask(label, min(mean, 1.0), mask)


def assign_pixels(
    masks: torch.Tensor, scores: torch.Tensor, stretched: Stretch, size: Size, *, strict: bool
) -> Iterator[tuple[int, torch.Tensor]]:
    """Assign each pixel to one mask; yield the index and the pixels of each that keeps enough.

    ``stretched`` turns ``[n, h, w]`` of ``masks`` into probabilities ``[n, *size]``. A pixel goes
    to the mask of the largest probability times score. A mask's own pixels are those where its
    probability times score (``strict=False``) or its probability alone reaches ``MASK_THRESHOLD``;
    a mask that wins no more than ``MIN_WON_SHARE`` of them is dropped. Strict masks also lose the
    pixels that they win but that are not their own.
    """
    areas: list[torch.Tensor] = []

    def weighted() -> Iterator[torch.Tensor]:
        for part, weights in zip(_pieces(masks, size), _pieces(scores, size), strict=True):
            plain = stretched(part)
            product = plain * weights[:, None, None]
            areas.append(((plain if strict else product) >= MASK_THRESHOLD).sum((1, 2)))
            yield product

    winner = largest_maps(weighted())
    for index, area in enumerate(torch.cat(areas)):
        mask = winner == index
        won = mask.sum()
        if strict:
            mask &= stretched(masks[index : index + 1])[0] >= MASK_THRESHOLD
        if area and mask.any() and (won / area).item() > MIN_WON_SHARE:
            yield index, mask


def _pieces(items: torch.Tensor, size: Size) -> Iterator[torch.Tensor]:
    """Split ``items`` into runs that fit into ``STRETCHED_BYTES`` as float32 maps of ``size``."""
    step = max(1, STRETCHED_BYTES // (4 * size[0] * size[1]))
    for start in range(0, len(items), step):
        yield items[start : start + step]
