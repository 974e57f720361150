"""Measures the GPU memory of this process, in torch's terms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from mataserver_sam.image_requests import GpuMemory


def gpu_memory() -> GpuMemory:
    """Return index, allocated and reserved bytes of each GPU that this process uses."""
    cuda: Any = torch.cuda  # which torch types in part only
    if not cuda.is_initialized():
        return []
    return [
        (index, cuda.memory_allocated(index), cuda.memory_reserved(index))
        for index in range(cuda.device_count())
    ]
