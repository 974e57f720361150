"""What a video session has done and holds, counted for its figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mataserver_sam.forgetting import held_bytes
from mataserver_sam.video_requests import Figures

if TYPE_CHECKING:
    from collections.abc import Sequence


class Tally:
    """The frames of ``count`` that were visited, and the bytes that are held as last measured."""

    def __init__(self, count: int) -> None:
        self._visited = bytearray(count)
        self._visits = 0
        self._bytes = (0, 0)

    def visit(self, frame: int) -> None:
        """Count a frame, once."""
        self._visits += not self._visited[frame]
        self._visited[frame] = True

    def measure(self, held: Sequence[Any], *, shared: Any, cached: int) -> None:
        """Measure tensors and what shares memory with them; ``cached`` bytes are no tensors'."""
        by_device = held_bytes(held, shared=shared)
        self._bytes = (by_device.get("cuda", 0), sum(by_device.values()) + cached)

    def figures(self, objects: int) -> Figures:
        """Return what is told of a session with so many objects."""
        return Figures(objects, self._visits, *self._bytes)
