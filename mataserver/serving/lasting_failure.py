"""Memory of failed loads that would fail again until their inputs change."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mataserver.engines.worker_errors import Failure

if TYPE_CHECKING:
    from mataserver.errors import MataError
    from mataserver.library.plan import ModelPlan


@dataclass(frozen=True, slots=True)
class LastingFailure:
    """Why a model failed to load, valid while its inputs are unchanged.

    ``until`` is on the pool's clock: inputs that are not observed, such as a driver or a system
    program, are retried then.
    """

    plan: ModelPlan
    fingerprint: tuple[tuple[str, int, int], ...]
    failure: Failure
    until: float

    @classmethod
    async def of(cls, plan: ModelPlan, error: MataError, until: float) -> LastingFailure:
        """Record a failed load."""
        taken = await asyncio.to_thread(fingerprint, plan)
        return cls(plan, taken, Failure.of(error), until)

    async def check(self, plan: ModelPlan, now: float) -> None:
        """Raise the load's failure, if the load would fail again."""
        if self.plan != plan or now >= self.until:
            return
        if await asyncio.to_thread(fingerprint, plan) == self.fingerprint:
            raise self.failure.error()


def fingerprint(plan: ModelPlan) -> tuple[tuple[str, int, int], ...]:
    """Return path, size and mtime of a load's inputs: the model's files, and the packages.

    A package directory changes when a package is installed or removed. Blocking.
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
