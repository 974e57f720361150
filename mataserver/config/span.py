"""The number of a model's workers: fixed, or a range for autoscaling."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct


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
