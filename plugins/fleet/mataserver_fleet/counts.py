"""How often each version of a model was asked at each Triton, whatever happened to the Triton.

A Triton counts from 0 again after each load. What is kept is the sum of what was added, and what
the Triton said last: a lower number than that is a new beginning.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa

from mataserver_fleet.tables import COUNTS, MODELS

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping, Sequence

    from mataserver_database import Connection
    from mataserver_fleet.leadership import LeaderLease
    from mataserver_fleet.store import Store
    from mataserver_fleet.triton_answers import ModelCount


class CountTotal(NamedTuple):
    """What was counted; ``last`` in Unix seconds, 0 for never."""

    inferences: int = 0
    executions: int = 0
    last: float = 0.0

    def plus(self, other: CountTotal) -> CountTotal:
        """Return both together."""
        return CountTotal(
            self.inferences + other.inferences,
            self.executions + other.executions,
            max(self.last, other.last),
        )


class ModelCounts:
    """Keeps the counts.

    lease: what a server that writes holds. One that stood still, and is not told yet that another
           leads, writes nothing: an older count than the last would look like a new beginning.
    """

    def __init__(self, store: Store, lease: LeaderLease | None = None) -> None:
        self._store = store
        self._lease = lease

    async def note(
        self,
        triton: int,
        reported: Sequence[ModelCount],
        busy: Mapping[int, Container[int]] | None = None,
    ) -> None:
        """Add the counts that a Triton reports; a version that it omits restarts at 0.

        busy: models of which no other versions than these are looked at.

        None is added where a model is removed at the same time: the next call adds them.
        """
        with contextlib.suppress(sa.exc.IntegrityError):
            await self._note(triton, reported, busy or {})

    async def _note(
        self, triton: int, reported: Sequence[ModelCount], busy: Mapping[int, Container[int]]
    ) -> None:
        async with self._store.database.begin() as connection:
            if not await self._may_write(connection):
                return
            named = sa.select(MODELS.c.name, MODELS.c.id)
            models = {row.name: row.id for row in await connection.execute(named)}
            query = sa.select(COUNTS).where(COUNTS.c.triton_id == triton)
            found = (await connection.execute(query)).mappings().all()
            known = {(row["model_id"], row["version"]): row for row in found}
            counts = {
                (models[each.name], each.number): each for each in reported if each.name in models
            }
            rows = [
                _row(triton, key, known.get(key), each)
                for key, each in counts.items()
                if key[0] not in busy or key[1] in busy[key[0]]
            ]
            await _write(connection, [each for each in rows if each is not None], known)
            gone = {key for key, row in known.items() if row["seen_inferences"]} - set(counts)
            for model, version in gone:
                if model not in busy:
                    await self._reset(connection, triton, model, version)

    async def reset(self, triton: int, model: int) -> None:
        """Take a model that was loaded for one that counts from 0."""
        async with self._store.database.begin() as connection:
            if await self._may_write(connection):
                await self._reset(connection, triton, model, None)

    async def _may_write(self, connection: Connection) -> bool:
        return self._lease is None or await self._lease.is_held(connection)

    async def _reset(
        self, connection: Connection, triton: int, model: int, version: int | None
    ) -> None:
        own = [COUNTS.c.triton_id == triton, COUNTS.c.model_id == model]
        own += [] if version is None else [COUNTS.c.version == version]
        change = sa.update(COUNTS).where(*own)
        await connection.execute(change.values(seen_inferences=0, seen_executions=0))

    async def totals(self, models: Iterable[int]) -> dict[int, dict[int, CountTotal]]:
        """Return what was counted for each version of some models, over all Tritons."""
        sums = (sa.func.sum(COUNTS.c.inferences), sa.func.sum(COUNTS.c.executions))
        key = (COUNTS.c.model_id, COUNTS.c.version)
        query = sa.select(*key, *sums, sa.func.max(COUNTS.c.last)).group_by(*key)
        found: dict[int, dict[int, CountTotal]] = {}
        async with self._store.read() as connection:
            chosen = query.where(COUNTS.c.model_id.in_(list(models)))
            for model, version, asked, run, last in await connection.execute(chosen):
                found.setdefault(model, {})[version] = CountTotal(int(asked), int(run), float(last))
        return found


def _row(
    triton: int, key: tuple[int, int], known: sa.RowMapping | None, reported: ModelCount
) -> dict[str, Any] | None:
    """Return the row of a version with what is reported added; None where it stays as it is."""
    told = (reported.inferences, reported.executions)
    before, counted, last = (0, 0), (0, 0), 0.0
    if known is not None:
        seen = (known["seen_inferences"], known["seen_executions"])
        if told == seen:
            return None
        restarted = told[0] < seen[0] or told[1] < seen[1]
        before = (0, 0) if restarted else seen
        counted, last = (known["inferences"], known["executions"]), known["last"]
    return {
        "model_id": key[0],
        "version": key[1],
        "triton_id": triton,
        "inferences": counted[0] + told[0] - before[0],
        "executions": counted[1] + told[1] - before[1],
        "last": max(last, reported.last),
        "seen_inferences": told[0],
        "seen_executions": told[1],
    }


async def _write(
    connection: Connection, rows: Sequence[dict[str, Any]], known: Container[tuple[int, int]]
) -> None:
    """Write rows, all at once: a Triton may have hundreds, and each look writes what changed."""
    fresh = [each for each in rows if (each["model_id"], each["version"]) not in known]
    if fresh:
        await connection.execute(sa.insert(COUNTS), fresh)
    changed = [each for each in rows if (each["model_id"], each["version"]) in known]
    if changed:
        keys = ("model_id", "version", "triton_id")
        own = [COUNTS.c[name] == sa.bindparam(f"own_{name}") for name in keys]
        bound = [{f"own_{n}" if n in keys else n: v for n, v in row.items()} for row in changed]
        await connection.execute(sa.update(COUNTS).where(*own), bound)
