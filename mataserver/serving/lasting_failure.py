"""Memory of failed loads that would fail again until their inputs change."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mataserver.engines.worker_errors import Failure
from mataserver.sources import local

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
    fingerprint: tuple[str, ...]
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


def fingerprint(plan: ModelPlan) -> tuple[str, ...]:
    """Return the editions of a load's inputs: of the model's files, and of the packages.

    A package directory changes when a package is installed or removed. Blocking.
    """
    paths = [each.spec.path for each in plan.with_parts if each.spec.path is not None]
    return (*map(local.edition_of, paths), *(local.stamp(Path(place)) for place in sys.path))
