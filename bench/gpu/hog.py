"""The plugin ``hog``: a model that takes as much of the GPU's memory as it is asked to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mataserver import Backend, Detection, DetectResult, Params, hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mataserver import LoadContext, ModelSpec


class HogParams(Params, frozen=True):
    """``gigabytes`` are allocated for the request, and freed after it."""

    gigabytes: int = 0


class Hog:
    """Allocates, then answers one box."""

    def __init__(self, device: str) -> None:
        self._device = device

    def predict(self, images: Sequence[Any], params: Sequence[HogParams]) -> list[DetectResult]:
        """Allocate for each image, which may be too much."""
        import torch

        for each in params:
            torch.empty(each.gigabytes << 30, dtype=torch.uint8, device=self._device)
        found = [Detection("hog", 0.9, (0.0, 0.0, 1.0, 1.0))]
        return [DetectResult(found) for _ in images]


def load(_spec: ModelSpec, context: LoadContext) -> Hog:
    """Take the device that the server names."""
    return Hog("cuda" if context.device == "auto" else context.device)


@hookimpl
def backends() -> Iterable[Backend]:
    """Return the model ``hog``."""
    yield Backend(
        name="hog",
        task="detect",
        source="pip",
        load=load,
        params=HogParams,
        gpu=True,
        preload=("torch",),
    )
