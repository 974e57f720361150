"""What a request found, in the form of its answer: mask by mask, so that few are held at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from mataserver import InvalidParams
from mataserver_sam.image_requests import CachedResult, ImageSize, SegmentAnswer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mataserver_sam.clicks import Found
    from mataserver_sam.drawing import Drawing
    from mataserver_sam.masks import Mask, MaskFormat, Relative
    from mataserver_sam.preprocess import Size

LONGEST_ANSWER = 256_000_000
"""Bytes of the masks of one answer, about. Thresholds of 0 on large images would have no end."""

_POINT_BYTES = 8  # of a polygon's number, as text


class Collected:
    """The objects of an answer, or of one text in it."""

    def __init__(self, form: MaskFormat, budget: Budget) -> None:
        self._form = form
        self._budget = budget
        self.masks: list[Any] = []
        self.boxes: list[Relative] = []
        self.scores: list[float] = []
        self.labels: list[str] = []

    def add(self, found: Found, mask: Mask) -> None:
        """Add an object and its mask. Raises ``InvalidParams`` when the answer grows too large."""
        told = mask.told(self._form)
        self._budget.spend(bytes_of(told))
        self.masks.append(told)
        self.boxes.append(found.box)
        self.scores.append(found.score)
        self.labels.append(found.label)


class Budget:
    """How much one answer may still hold."""

    def __init__(self, limit: int = LONGEST_ANSWER) -> None:
        self._left = limit

    def spend(self, count: int) -> None:
        """Take ``count`` bytes. Raises ``InvalidParams`` when there are not as many."""
        self._left -= count
        if self._left < 0:
            raise InvalidParams(
                "the answer is too large: raise the threshold, or ask for less at a time"
            )


def bytes_of(told: Any) -> int:
    """Return how long a mask in one of the forms is, about."""
    if isinstance(told, str):
        return len(told)
    if isinstance(told, dict):
        return len(told["counts"])
    return sum(map(len, told)) * _POINT_BYTES


def collect(group: Iterable[Found], found: Collected, drawing: Drawing | None = None) -> None:
    """Add a group of objects to an answer, and to its picture; those without a pixel are none."""
    for each in group:
        mask = each.mask()
        if not mask.area:
            continue
        found.add(each, mask)
        if drawing is not None:
            drawing.add(each, mask)


def answer_of(
    found: Collected, size: Size, url: str | None, spent: float, image_id: str | None
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


def result_of(text: str, group: Iterable[Found], found: Collected) -> CachedResult:
    """Return what a text found; ``found`` is empty."""
    collect(group, found)
    return CachedResult(
        prompt=text,
        masks=found.masks,
        boxes=found.boxes,
        scores=found.scores,
        num_masks=len(found.masks),
    )
