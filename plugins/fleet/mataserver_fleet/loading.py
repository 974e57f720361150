"""Has models loaded and unloaded, and waits for what comes of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from msgspec import Struct

from mataserver_database import finish
from mataserver_fleet.placements import Placements
from mataserver_fleet.store import pause

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mataserver_fleet.pages import Tags
    from mataserver_fleet.placements import Target
    from mataserver_fleet.store import Changes, Store

_LOOK_SECONDS = 0.5
"""How often it is looked while nothing is told of."""


class Result(Struct, kw_only=True):
    """What came of it at a Triton: "ok", "failed", or "waiting" for a Triton that is away."""

    triton: str
    status: str
    reason: str


class Done(Struct, kw_only=True):
    """What came of it at each Triton; "partial" where it is not done at all of them."""

    status: str
    tritons: list[Result]


class Loading:
    """Waits for placements. ``timeout`` in seconds."""

    def __init__(self, store: Store, changes: Changes, timeout: float) -> None:
        self._placements = Placements(store)
        self._changes = changes
        self._timeout = timeout

    async def load(
        self,
        model: str,
        triton: str | None,
        versions: Sequence[int] | None,
        expected: Tags | None = None,
    ) -> Done:
        """Load versions of a model; what is wanted stays so, whatever comes of it."""
        with self._changes.listen() as changed:
            targets = await finish(self._placements.want(model, triton, versions, expected))
            return await self._done(targets, changed)

    async def unload(self, model: str, triton: str | None, expected: Tags | None = None) -> Done:
        """Unload a model."""
        with self._changes.listen() as changed:
            targets = await finish(self._placements.unwant(model, triton, expected))
            return await self._done(targets, changed)

    async def _done(self, targets: list[Target], changed: asyncio.Event) -> Done:
        await self._wait(targets, changed)
        rows = await finish(self._placements.of({each.model for each in targets}))
        known = {row["triton_id"]: row for row in rows}
        results = []
        for each in targets:
            row = known.get(each.triton)
            if row is None:  # it was removed meanwhile
                continue
            reason = row["reason"]
            status = "failed" if row["state"] == "failed" else "ok"
            if row["done"] < each.generation:
                status = "waiting"
                reason = reason or "It is not done yet"
                if each.away(row["triton_state"]):
                    why = row["triton_reason"] or row["triton_state"]
                    reason = f"The Triton is away: {why}"
            results.append(Result(triton=row["name"], status=status, reason=reason))
        whole = all(each.status == "ok" for each in results)
        return Done(status="ok" if whole else "partial", tritons=results)

    async def _wait(self, targets: list[Target], changed: asyncio.Event) -> None:
        end = asyncio.get_running_loop().time() + self._timeout
        while targets and asyncio.get_running_loop().time() < end:
            targets = await finish(self._placements.pending(targets))
            if targets:
                await pause(changed, _LOOK_SECONDS)
