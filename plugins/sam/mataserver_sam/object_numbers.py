"""The numbers by which a session's objects are known: from 1, in the order they are first seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mataserver_sam.sighting import Sighting


class ObjectNumbers:
    """Counts objects; what texts find has a number of its own in their tracks besides."""

    def __init__(self) -> None:
        self._by_track: dict[int, int] = {}
        self._last = 0

    def next(self) -> int:
        """Return the number of a new object."""
        self._last += 1
        return self._last

    def numbered(self, seen: Sequence[Sighting]) -> list[Sighting]:
        """Number what texts found as objects of the session."""
        for each in seen:
            if each.number not in self._by_track:
                self._by_track[each.number] = self.next()
        return [each._replace(number=self._by_track[each.number]) for each in seen]

    def of(self, tracked: Iterable[int]) -> dict[int, int]:
        """Return the numbers in the tracks of texts by those in the session.

        Objects that were never visible have none.
        """
        return {self._by_track[each]: each for each in tracked if each in self._by_track}
