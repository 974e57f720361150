"""How often each version of a model was asked at each Triton, whatever happened to the Triton.

A Triton counts from 0 again after each load. What is kept is the sum of what was added, and what
the Triton said last: a lower number than that is a new beginning.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple

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
            rows = (await connection.execute(query)).mappings().all()
            known = {(row["model_id"], row["version"]): row for row in rows}
            counts = {
                (models[each.name], each.number): each for each in reported if each.name in models
            }
            for key, each in counts.items():
                if key[0] not in busy or key[1] in busy[key[0]]:
                    await _add(connection, triton, key, known.get(key), each)
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


async def _add(
    connection: Connection,
    triton: int,
    key: tuple[int, int],
    known: sa.RowMapping | None,
    reported: ModelCount,
) -> None:
    model, version = key
    if known is None:
        fresh = {"model_id": model, "version": version, "triton_id": triton}
        counted = {
            "inferences": reported.inferences,
            "executions": reported.executions,
            "last": reported.last,
        }
        seen = {"seen_inferences": reported.inferences, "seen_executions": reported.executions}
        await connection.execute(sa.insert(COUNTS).values(**fresh, **counted, **seen))
        return
    restarted = (
        reported.inferences < known["seen_inferences"]
        or reported.executions < known["seen_executions"]
    )
    before = (0, 0) if restarted else (known["seen_inferences"], known["seen_executions"])
    if not restarted and (reported.inferences, reported.executions) == before:
        return
    values = {
        "inferences": known["inferences"] + reported.inferences - before[0],
        "executions": known["executions"] + reported.executions - before[1],
        "last": max(known["last"], reported.last),
        "seen_inferences": reported.inferences,
        "seen_executions": reported.executions,
    }
    own = (
        COUNTS.c.model_id == model,
        COUNTS.c.version == version,
        COUNTS.c.triton_id == triton,
    )
    await connection.execute(sa.update(COUNTS).where(*own).values(**values))
