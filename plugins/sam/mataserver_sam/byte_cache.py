"""A cache bounded by bytes, for features of images and texts; evicts the least recently used."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

V = TypeVar("V")


class ByteCache(Generic[V]):
    """Values by key, whose total size is limited; evicts the least recently used.

    Not thread-safe. A value that is larger than the limit is not kept.
    """

    def __init__(self, limit: float, size: Callable[[V], int]) -> None:
        self._limit = limit
        self._size = size
        self._entries: OrderedDict[Hashable, tuple[V, int]] = OrderedDict()
        self.held_bytes = 0
        self.hits = 0
        self.misses = 0

    def get(self, key: Hashable) -> V | None:
        """Return the value of ``key``, or None."""
        found = self._entries.get(key)
        if found is None:
            self.misses += 1
            return None
        self.hits += 1
        self._entries.move_to_end(key)
        return found[0]

    def put(self, key: Hashable, value: V) -> None:
        """Add a value, evicting the least recently used ones as needed."""
        self._drop(key)
        size = self._size(value)
        if size > self._limit:
            return
        while self.held_bytes + size > self._limit:
            self._drop(next(iter(self._entries)))
        self._entries[key] = (value, size)
        self.held_bytes += size

    def drop_if(self, gone: Callable[[V], bool]) -> None:
        """Drop every value for which ``gone`` is true."""
        for key in [key for key, (value, _) in self._entries.items() if gone(value)]:
            self._drop(key)

    def clear(self) -> None:
        """Drop everything."""
        self._entries.clear()
        self.held_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def _drop(self, key: Hashable) -> None:
        _, size = self._entries.pop(key, (None, 0))
        self.held_bytes -= size


def tensor_bytes(value: Any) -> int:
    """Return the bytes of the tensors in a tensor, or in a list, tuple or mapping of such."""
    if hasattr(value, "element_size"):
        return int(value.numel() * value.element_size())
    if isinstance(value, dict):
        return tensor_bytes(list(value.values()))
    return sum(map(tensor_bytes, value)) if isinstance(value, (list, tuple)) else 0
