"""The numbers of a session's objects: from 1, in the order of their first appearance."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mataserver_sam.frame_object import FrameObject


class ObjectNumbers:
    """Numbers objects; objects found by texts also have a number within their text tracks."""

    def __init__(self) -> None:
        self._by_track: dict[int, int] = {}
        self._last = 0

    def next(self) -> int:
        """Return the number of a new object."""
        self._last += 1
        return self._last

    def assign(self, seen: Sequence[FrameObject]) -> list[FrameObject]:
        """Assign session numbers to objects found by texts."""
        for each in seen:
            if each.number not in self._by_track:
                self._by_track[each.number] = self.next()
        return [each._replace(number=self._by_track[each.number]) for each in seen]

    def track_numbers(self, tracked: Iterable[int]) -> dict[int, int]:
        """Return the numbers within the text tracks by those in the session.

        Objects that were never visible have none.
        """
        return {self._by_track[each]: each for each in tracked if each in self._by_track}
