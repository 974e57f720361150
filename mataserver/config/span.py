"""How many workers a model has: a number, or between two, as it is asked."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct


class Span(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``replicas:`` of a model whose workers become more and fewer.

    min:    workers that a loaded model has at least; 0 lets ``keep_alive`` unload it.
    max:    workers that it has at most.
    target: images for each worker, those that wait and those that are worked on.
    """

    max: Annotated[int, Meta(ge=1, le=64)]
    min: Annotated[int, Meta(ge=0, le=64)] = 1
    target: Annotated[float, Meta(gt=0.0, le=1024.0)] = 2.0

    @property
    def first(self) -> int:
        """The workers that a load starts, which a loaded model then has at least."""
        return max(1, self.min)

    @property
    def fixed(self) -> bool:
        """Whether there is nothing to choose."""
        return self.first == self.max

    @property
    def stays(self) -> bool:
        """Whether a model stays in memory unless its ``keep_alive`` says otherwise."""
        return self.min > 0 and not self.fixed
