"""What a model's workers need: how many there are, and a cluster's node for each."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

Label = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?\Z",
        description="letters and digits, with '.', '_', '/' and '-' between them",
        max_length=63,
    ),
]
"""A key or a value of a node's labels, as Ray takes them."""


class Needs(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``needs:`` of a model with the engine ``ray``: for each of its workers.

    cpu:       processors, possibly fractional.
    gpu:       GPUs, a part of one or whole ones; None means one with ``device: cuda``, else none.
    memory_mb: memory; 0 requests none.
    labels:    labels that the node must have.
    """

    cpu: Annotated[float, Meta(ge=0.0, le=1024.0)] = 1.0
    gpu: Annotated[float, Meta(ge=0.0, le=64.0)] | None = None
    memory_mb: Annotated[float, Meta(ge=0.0, le=16_777_216.0)] = 0.0
    labels: dict[Label, Label] = {}

    def __post_init__(self) -> None:
        """Raise ``ValueError`` for an amount that no cluster gives."""
        if self.gpu is not None and self.gpu > 1 and self.gpu % 1:
            raise ValueError("gpu must be a part of one GPU, or whole ones")

    @property
    def threads(self) -> int:
        """The number of threads for its processors, at least one."""
        return max(1, int(self.cpu))

    def gpus(self, device: str) -> float:
        """Return the GPUs that a worker on ``device`` needs."""
        if self.gpu is not None:
            return self.gpu
        return 1.0 if device == "cuda" else 0.0


class Span(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``replicas:`` of a model with autoscaling.

    min:    minimum workers of a loaded model; 0 lets ``keep_alive`` unload it.
    max:    maximum workers.
    target: images per worker, queued or running.
    """

    max: Annotated[int, Meta(ge=1, le=64)]
    min: Annotated[int, Meta(ge=0, le=64)] = 1
    target: Annotated[float, Meta(gt=0.0, le=1024.0)] = 2.0

    @property
    def first(self) -> int:
        """The number of workers after a load, and the minimum while loaded."""
        return max(1, self.min)

    @property
    def fixed(self) -> bool:
        """Whether the number of workers is fixed."""
        return self.first == self.max

    @property
    def stays(self) -> bool:
        """Whether a model stays in memory unless its ``keep_alive`` says otherwise."""
        return self.min > 0 and not self.fixed
