"""Counts what one Triton reports, also of models that are being loaded or unloaded at it.

A Triton counts from 0 again after a load: what it reported before must not be added after that. But
a version that is being replaced answers until it goes, which may take minutes, and counts so long.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mataserver_database import finish

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from mataserver_fleet.counts import ModelCounts
    from mataserver_fleet.triton_answers import ModelCount


class TritonCounts:
    """Keeps the counts of one Triton, whose id is ``triton``."""

    def __init__(self, counts: ModelCounts, triton: int) -> None:
        self._counts = counts
        self._triton = triton
        self._lock = asyncio.Lock()
        self._replaced: dict[int, frozenset[int]] = {}
        self._last: Sequence[ModelCount] = ()

    def begin(self, model: int, replaced: Iterable[int]) -> None:
        """Note that a model is worked on, and which of its served versions go by that.

        Only these are counted until ``reset`` or ``end``.
        """
        self._replaced[model] = frozenset(replaced)
        self._last = ()

    async def note(self, reported: Sequence[ModelCount], busy: Collection[int]) -> None:
        """Add what was reported. ``busy`` are the models that were worked on at that time."""
        if reported == self._last:
            return
        async with self._lock:
            counted = {model: self._replaced.get(model, frozenset()) for model in busy}
            await finish(self._counts.note(self._triton, reported, counted))
        self._last = () if busy else reported

    async def reset(self, model: int) -> None:
        """Take a model for one that counts from 0: what was reported before is over."""
        async with self._lock:
            self.end(model)
            await finish(self._counts.reset(self._triton, model))

    def end(self, model: int) -> None:
        """Note that a model is not worked on any more."""
        self._replaced.pop(model, None)
