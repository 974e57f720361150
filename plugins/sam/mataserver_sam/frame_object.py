"""An object on one frame, and the assignment of pixels that several objects claim."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mataserver_sam.masks import Mask

if TYPE_CHECKING:
    from collections.abc import Sequence


class FrameObject(NamedTuple):
    """An object on one frame: its number, score (0 to 1) and mask."""

    number: int
    score: float
    mask: Mask


def resolve_overlaps(seen: Sequence[FrameObject]) -> list[FrameObject]:
    """Assign each pixel to the best of the objects that claim it, to the first of equals.

    Objects without a pixel left are dropped.
    """
    visible = [each for each in seen if each.mask.area]
    if len(visible) < 2:
        return visible
    taken = np.zeros(visible[0].mask.size, bool)
    left = []
    for each in sorted(visible, key=lambda one: -one.score):
        mask = each.mask
        height, width = mask.bits.shape
        part = taken[mask.top : mask.top + height, mask.left : mask.left + width]
        kept = Mask(mask.bits & ~part, mask.top, mask.left, mask.size)
        part |= mask.bits
        if kept.area:
            left.append(each._replace(mask=kept))
    return left
