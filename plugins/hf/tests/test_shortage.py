"""What torch raises for want of memory is told as such, whatever its type."""

from __future__ import annotations

import pytest
import torch

from mataserver.engines.failures import failure_of


def raised_by_torch():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    return caught.value


@pytest.mark.parametrize(
    "error",
    [
        raised_by_torch(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
    ids=["the CPU's allocator", "its own type", "the runtime", "cuBLAS", "cuDNN"],
)
def test_a_shortage_is_507(error):
    """A request that finds no memory is answered 507, as where Python itself has none."""
    told = failure_of(error, "The model failed")
    assert (told.status, told.detail) == (507, "Out of memory")


def test_another_error_is_none():
    """A RuntimeError of another kind is the model's failure."""
    told = failure_of(RuntimeError("shapes differ: out of bounds"), "The model failed")
    assert (told.status, told.detail) == (500, "The model failed: RuntimeError")
