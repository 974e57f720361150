"""Counts the frames that a video session visited, and measures the memory that it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mataserver_sam.gpu_memory import gpu_memory
from mataserver_sam.memory_pruning import held_bytes
from mataserver_sam.video_requests import SessionUsage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mataserver_sam.image_requests import GpuMemory


class SessionStatistics:
    """Counts visited frames of ``count``, and keeps the last measurement of held bytes."""

    def __init__(self, count: int) -> None:
        self._visited = bytearray(count)
        self._visits = 0
        self._bytes = (0, 0)
        self._gpus: GpuMemory = []

    def add_frame(self, frame: int) -> None:
        """Count a frame, once."""
        self._visits += not self._visited[frame]
        self._visited[frame] = True

    def measure(self, held: Sequence[Any], *, shared: Any, cached: int) -> None:
        """Measure the bytes of tensors; ``cached`` are bytes of other caches."""
        by_device = held_bytes(held, shared=shared)
        self._bytes = (by_device.get("cuda", 0), sum(by_device.values()) + cached)
        self._gpus = gpu_memory()

    def figures(self, objects: int) -> SessionUsage:
        """Return the figures of a session with so many objects."""
        return SessionUsage(objects, self._visits, *self._bytes, self._gpus)
