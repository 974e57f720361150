"""What torch raises for want of memory is told as such, whatever its type."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mataserver.engines.failures import failure_of
from mataserver_hf.network import Network
from mataserver_hf.preprocessor import Preprocessor


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
    told = failure_of(error, "The model failed", "org/model")
    assert (told.status, told.detail) == (507, "Out of memory")


def test_another_error_is_none():
    """A RuntimeError of another kind is the model's failure."""
    told = failure_of(RuntimeError("shapes differ: out of bounds"), "The model failed", "org/model")
    assert (told.status, told.detail) == (500, "The model failed: RuntimeError")


@pytest.mark.parametrize("text", ["shapes differ", str(raised_by_torch())], ids=["bug", "memory"])
def test_a_network_that_fails_is_not_the_images_fault(text):
    """Nothing but an image's size is told to the client as the image's fault."""

    class Failing(torch.nn.Module):
        dtype = torch.float32

        def forward(self, pixel_values):
            raise RuntimeError(text)

    network = Network(Failing(), torch.device("cpu"))
    with pytest.raises(RuntimeError) as caught:
        network.run({"pixel_values": torch.zeros(1, 3, 4, 4)})
    assert str(caught.value) == text


def test_a_shortage_while_an_image_is_prepared_is_507():
    """An image processor that resizes with torch may find no memory: the image is not too small."""

    def processor(**_given):
        raise raised_by_torch()

    with pytest.raises(RuntimeError) as caught:
        list(Preprocessor(processor).groups([np.zeros((4, 4, 3), np.uint8)]))
    assert failure_of(caught.value, "The model failed", "org/model").status == 507
