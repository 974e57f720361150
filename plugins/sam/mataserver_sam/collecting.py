"""What a request found, in the form of its answer: mask by mask, so that few are held at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mataserver import InvalidParams

if TYPE_CHECKING:
    from mataserver_sam.clicks import Found
    from mataserver_sam.masks import Mask, MaskFormat, Relative

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
