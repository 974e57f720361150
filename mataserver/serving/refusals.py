"""Loads that failed and would fail again: until what they depend on has changed."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mataserver.engines.accidents import Failure

if TYPE_CHECKING:
    from mataserver.errors import MataError
    from mataserver.library.plan import ModelPlan


@dataclass(frozen=True, slots=True)
class LastingFailure:
    """Why a model could not be loaded, for as long as nothing that it depends on has changed.

    ``until`` is on the pool's clock: what nobody here sees change, a driver or a program of the
    system, is tried again then.
    """

    plan: ModelPlan
    footprint: tuple[tuple[str, int, int], ...]
    failure: Failure
    until: float

    @classmethod
    async def of(cls, plan: ModelPlan, error: MataError, until: float) -> LastingFailure:
        """Return what is remembered of a load that failed."""
        mark = await asyncio.to_thread(footprint, plan)
        return cls(plan, mark, Failure.of(error), until)

    async def check(self, plan: ModelPlan, now: float) -> None:
        """Raise why the load failed, if it would fail again."""
        if self.plan != plan or now >= self.until:
            return
        if await asyncio.to_thread(footprint, plan) == self.footprint:
            raise self.failure.error()


def footprint(plan: ModelPlan) -> tuple[tuple[str, int, int], ...]:
    """Return name, size and time of what a model is loaded from: its files, and the packages.

    A directory of packages changes when one is installed or removed. Blocking.
    """
    places = [each.spec.path for each in (plan, *plan.parts.values())]
    roots = [place for place in places if place is not None]
    files = [file for root in roots for file in (root, *root.rglob("*"))]
    found = []
    for path in sorted({*files, *map(Path, sys.path)}):
        with contextlib.suppress(OSError):
            status = path.stat()
            found.append((str(path), status.st_size, status.st_mtime_ns))
    return tuple(found)
