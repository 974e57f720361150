"""Requests loads and unloads of models, and waits for the results."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from msgspec import Struct

from mataserver_database import finish
from mataserver_fleet.placement_requests import PlacementRequests
from mataserver_fleet.placements import Placements
from mataserver_fleet.store import pause

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    import sqlalchemy as sa

    from mataserver_fleet.pages import Tags
    from mataserver_fleet.placement_requests import PlacementRequest, PlacementTarget
    from mataserver_fleet.store import ChangeSignal, Store

_POLL_SECONDS = 0.5
"""Seconds between polls without a change signal."""


class Result(Struct, kw_only=True):
    """The result at a Triton: "ok", "failed", or "waiting" for a Triton that is away."""

    triton: str
    status: str
    reason: str


class LoadResponse(Struct, kw_only=True):
    """The result at each Triton; "partial" where it is not done at all of them."""

    status: str
    tritons: list[Result]


class LoadOutcome(NamedTuple):
    """The results, and the model's revision after the request."""

    done: LoadResponse
    revision: int


class ModelLoader:
    """Waits for placements. ``timeout`` in seconds.

    ``stored`` is called once a request is stored, before its results are waited for.
    """

    def __init__(self, store: Store, changes: ChangeSignal, timeout: float) -> None:
        self._placements = Placements(store)
        self._requests = PlacementRequests(store)
        self._changes = changes
        self._timeout = timeout

    async def load(
        self,
        model: str,
        triton: str | None,
        versions: Sequence[int] | None,
        expected: Tags | None = None,
        stored: Callable[[], None] | None = None,
    ) -> LoadOutcome:
        """Load versions of a model; what is wanted stays so, whatever comes of it.

        Raises as ``PlacementRequests.request``.
        """
        return await self._await_placements(
            self._requests.request(model, triton, versions, expected), stored
        )

    async def unload(
        self,
        model: str,
        triton: str | None,
        expected: Tags | None = None,
        stored: Callable[[], None] | None = None,
    ) -> LoadOutcome:
        """Unload a model. Raises as ``PlacementRequests.withdraw``."""
        request = self._requests.withdraw(model, triton, expected)
        return await self._await_placements(request, stored)

    async def roll_back(
        self,
        model: str,
        expected: Tags | None = None,
        stored: Callable[[], None] | None = None,
    ) -> LoadOutcome:
        """Load the version before the newest wanted one.

        Raises as ``PlacementRequests.roll_back``.
        """
        return await self._await_placements(self._requests.roll_back(model, expected), stored)

    async def _await_placements(
        self, request: Coroutine[None, None, PlacementRequest], stored: Callable[[], None] | None
    ) -> LoadOutcome:
        with self._changes.listen() as changed:
            made = await finish(request)
            if stored is not None:
                stored()
            await self._poll(made.targets, changed)
        rows = await finish(self._placements.of({each.model for each in made.targets}))
        known = {row["triton_id"]: row for row in rows}
        results = [
            _result(each, row)
            for each in made.targets
            if (row := known.get(each.triton)) is not None  # else it has been removed
        ]
        whole = all(each.status == "ok" for each in results)
        return LoadOutcome(
            LoadResponse(status="ok" if whole else "partial", tritons=results), made.revision
        )

    async def _poll(self, targets: list[PlacementTarget], changed: asyncio.Event) -> None:
        end = asyncio.get_running_loop().time() + self._timeout
        while targets and asyncio.get_running_loop().time() < end:
            targets = await finish(self._pending(targets))
            if targets:
                await pause(changed, _POLL_SECONDS)

    async def _pending(self, targets: list[PlacementTarget]) -> list[PlacementTarget]:
        """Return those of some targets that have not been dealt with and soon can be."""
        rows = await self._placements.of({each.model for each in targets})
        known = {(row["model_id"], row["triton_id"]): row for row in rows}
        return [
            each
            for each in targets
            # One whose Triton or model has been removed is not awaited.
            if (row := known.get((each.model, each.triton))) is not None
            and row["done"] < each.generation
            and not each.is_away(row["triton_state"])
        ]


def _result(target: PlacementTarget, row: sa.RowMapping) -> Result:
    """Return the result at a Triton."""
    status, reason = "failed" if row["state"] == "failed" else "ok", row["reason"]
    if row["done"] < target.generation:
        status, reason = "waiting", reason or "It is not done yet"
        if target.is_away(row["triton_state"]):
            reason = f"The Triton is away: {row['triton_reason'] or row['triton_state']}"
    return Result(triton=row["name"], status=status, reason=reason)
