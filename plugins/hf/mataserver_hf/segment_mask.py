"""Maps of the network's resolution, stretched to the image's a few at a time.

Only modules that ``load`` imports import this one. A map of 8 million pixels takes 33 MB: a network
with 150 classes would need 5 GB for one image if all were stretched at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn.functional import interpolate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Size = tuple[int, int]
    Stretch = Callable[[torch.Tensor], torch.Tensor]

BUDGET = 128 * 2**20
"""Bytes of stretched maps that are held at a time (at least one map)."""
SURE = 0.5
"""The probability from which on a pixel counts as a mask's own."""
MOST = 0.8
"""The part of its own pixels that a mask must win to stay, as in MaskFormer."""


class Found(NamedTuple):
    """One segment: the index of its class, 0..1, and a boolean tensor ``[H, W]``, on any device."""

    label: int
    confidence: float
    mask: torch.Tensor


def stretch(maps: torch.Tensor, size: Size) -> torch.Tensor:
    """Resize ``[N, h, w]`` to ``[N, *size]``, bilinearly."""
    return interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]


def winners(stretched: Iterable[torch.Tensor]) -> torch.Tensor:
    """Return which map is the largest at each pixel, ``[H, W]``; of equals the first.

    ``stretched`` are pieces ``[n, H, W]``; maps are counted through all pieces.
    """
    # One map after the other: torch's own argmax over the first dimension takes ten times as long.
    maps = (each for piece in stretched for each in piece)
    best = next(maps).clone()
    winner = torch.zeros_like(best, dtype=torch.int16)
    for index, each in enumerate(maps, start=1):
        winner.masked_fill_(each > best, index)
        torch.maximum(best, each, out=best)
    return winner


def semantic(
    scores: torch.Tensor, probabilities: torch.Tensor, size: Size, confidence: float
) -> Iterator[Found]:
    """Give each pixel to the class of the largest score; yield one segment per class.

    ``scores`` decide and ``probabilities`` (both ``[C, h, w]``) become the confidence: their mean
    over the segment, at most 1. Segments below ``confidence`` are left out. A class that has no
    other beside it has the pixels that are ``SURE``ly its own.
    """
    if len(probabilities) == 1:
        [own] = stretch(probabilities, size)
        mask = own >= SURE
        if mask.any() and (mean := own[mask].mean().item()) >= confidence:
            yield Found(0, min(mean, 1.0), mask)
        return
    winner = winners(stretch(piece, size) for piece in _pieces(scores, size))
    for label in torch.bincount(winner.flatten()).nonzero()[:, 0].tolist():
        mask = winner == label
        mean = stretch(probabilities[label : label + 1], size)[0][mask].mean().item()
        if mean >= confidence:
            yield Found(label, min(mean, 1.0), mask)


def compete(
    masks: torch.Tensor, scores: torch.Tensor, stretched: Stretch, size: Size, *, strict: bool
) -> Iterator[tuple[int, torch.Tensor]]:
    """Give each pixel to one mask; yield the index and the pixels of each that keeps enough.

    ``stretched`` turns ``[n, h, w]`` of ``masks`` into probabilities ``[n, *size]``. A pixel goes
    to the mask of the largest probability times score. A mask is dropped when it wins no more than
    ``MOST`` of the pixels that are ``SURE``ly its own. Which are its own is judged with
    (``strict=False``) or without the score; strict ones also give up pixels that are not.
    """
    areas: list[torch.Tensor] = []

    def weighted() -> Iterator[torch.Tensor]:
        for part, weights in zip(_pieces(masks, size), _pieces(scores, size), strict=True):
            plain = stretched(part)
            product = plain * weights[:, None, None]
            areas.append(((plain if strict else product) >= SURE).sum((1, 2)))
            yield product

    winner = winners(weighted())
    for index, area in enumerate(torch.cat(areas)):
        mask = winner == index
        won = mask.sum()
        if strict:
            mask &= stretched(masks[index : index + 1])[0] >= SURE
        if area and mask.any() and (won / area).item() > MOST:
            yield index, mask


def _pieces(items: torch.Tensor, size: Size) -> Iterator[torch.Tensor]:
    """Cut ``items`` into runs of as many as fit into ``BUDGET`` as float32 maps of ``size``."""
    step = max(1, BUDGET // (4 * size[0] * size[1]))
    for start in range(0, len(items), step):
        yield items[start : start + step]
