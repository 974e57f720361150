"""Builds the answer of an image request mask by mask, so that few masks are held at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from mataserver import InvalidParams
from mataserver_sam.image_requests import CachedResult, ImageSize, SegmentAnswer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mataserver_sam.drawing import Drawing
    from mataserver_sam.masks import Mask, MaskFormat, Relative
    from mataserver_sam.preprocess import Size
    from mataserver_sam.prompt_decoder import FoundObject

MAX_ANSWER_BYTES = 256_000_000
"""The approximate limit of the masks of one answer: a threshold of 0 could exceed any size."""

_POINT_BYTES = 8  # of a polygon's coordinate, as text


class ObjectLists:
    """The objects of an answer, or of one text in it."""

    def __init__(self, form: MaskFormat, budget: ByteBudget) -> None:
        self._form = form
        self._budget = budget
        self.masks: list[Any] = []
        self.boxes: list[Relative] = []
        self.scores: list[float] = []
        self.labels: list[str] = []

    def add(self, found: FoundObject, mask: Mask) -> None:
        """Add an object and its mask. Raises ``InvalidParams`` when the answer grows too large."""
        encoded = mask.encode(self._form)
        self._budget.spend(bytes_of(encoded))
        self.masks.append(encoded)
        self.boxes.append(found.box)
        self.scores.append(found.score)
        self.labels.append(found.label)


class ByteBudget:
    """The remaining size of one answer."""

    def __init__(self, limit: int = MAX_ANSWER_BYTES) -> None:
        self._left = limit

    def spend(self, count: int) -> None:
        """Subtract ``count`` bytes. Raises ``InvalidParams`` when the budget is exceeded."""
        self._left -= count
        if self._left < 0:
            raise InvalidParams(
                "the answer is too large: raise the threshold, or ask for less at a time"
            )


def bytes_of(encoded: Any) -> int:
    """Return the approximate length of an encoded mask."""
    if isinstance(encoded, str):
        return len(encoded)
    if isinstance(encoded, dict):
        return len(encoded["counts"])
    return sum(map(len, encoded)) * _POINT_BYTES


def collect(
    group: Iterable[FoundObject], found: ObjectLists, drawing: Drawing | None = None
) -> None:
    """Add a group of objects to an answer and its picture, skipping those without a pixel."""
    for each in group:
        mask = each.mask()
        if not mask.area:
            continue
        found.add(each, mask)
        if drawing is not None:
            drawing.add(each, mask)


def answer_of(
    found: ObjectLists, size: Size, url: str | None, spent: float, image_id: str | None
) -> SegmentAnswer:
    """Return the answer about an image of ``size`` (height, width), made in ``spent`` ms."""
    return SegmentAnswer(
        masks=found.masks,
        boxes=found.boxes,
        scores=found.scores,
        labels=found.labels,
        num_masks=len(found.masks),
        image_size=ImageSize(width=size[1], height=size[0]),
        visualization_url=url,
        inference_time_ms=spent,
        image_id=image_id or msgspec.UNSET,
    )


def result_of(text: str, group: Iterable[FoundObject], found: ObjectLists) -> CachedResult:
    """Return the result of a text; ``found`` is empty before."""
    collect(group, found)
    return CachedResult(
        prompt=text,
        masks=found.masks,
        boxes=found.boxes,
        scores=found.scores,
        num_masks=len(found.masks),
    )
