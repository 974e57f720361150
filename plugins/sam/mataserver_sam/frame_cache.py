"""A cache of the frames of a video, bounded in bytes."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, Protocol, TypeVar


class SupportsNbytes(Protocol):
    """What a clip caches: arrays and tensors have ``nbytes``."""

    @property
    def nbytes(self) -> int:
        """Bytes of the pixels."""


Prepared = TypeVar("Prepared", bound=SupportsNbytes)


class FrameCache(Generic[Prepared]):
    """The most recently used frames, up to a number of bytes; always one."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._kept: OrderedDict[int, Prepared] = OrderedDict()
        self.size = 0

    @property
    def room(self) -> int:
        """How many frames fit."""
        largest = max((each.nbytes for each in self._kept.values()), default=0)
        return max(1, int(self._limit / largest)) if largest else 1

    def get(self, number: int) -> Prepared | None:
        """Return a cached frame, or None."""
        if number in self._kept:
            self._kept.move_to_end(number)
        return self._kept.get(number)

    def put(self, number: int, frame: Prepared) -> None:
        """Add a frame, evicting the least recently used ones."""
        replaced = self._kept.pop(number, None)
        self.size += frame.nbytes - (0 if replaced is None else replaced.nbytes)
        self._kept[number] = frame
        while self.size > self._limit and len(self._kept) > 1:
            self.size -= self._kept.popitem(last=False)[1].nbytes
