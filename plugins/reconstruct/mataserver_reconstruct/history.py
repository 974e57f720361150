"""What was measured of each upload and said of its drift, kept in the server's database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import sqlalchemy as sa
from msgspec import Struct

from mataserver_jobs.table import JOBS
from mataserver_reconstruct.tables import ENTRIES, RETRAININGS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from mataserver_database import Database

RECONSTRUCTION, CHECK = "reconstruction", "check"
KEPT = 1_000
"""Entries of one owner; older ones go."""
LOOKED_AT = 200
"""Data sets of a baseline, the newest."""
SAMPLE = 64
"""Photographs whose measures are kept of one upload, spread over it: their medians tell as much."""
_PAGE = 100


class Entry(Struct, frozen=True, kw_only=True):
    """One upload that was reconstructed, or checked alone.

    id:       of the job; of a check its own.
    kind:     ``reconstruction``, which later uploads are compared with, or ``check``.
    at:       when it ended, in Unix seconds.
    measures: values of its photographs by feature.
    report:   of its drift against those before.
    """

    id: str
    kind: str
    owner: str
    at: float
    dataset_name: str
    scene_name: str
    n_images: int
    registration_rate: float | None
    measures: dict[str, list[float]]
    report: dict[str, Any]


class Baseline(NamedTuple):
    """The data sets that an upload is compared with: their measures and registration rates."""

    measures: list[dict[str, list[float]]]
    rates: list[float]


def sampled(rows: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Return the measures of photographs by feature, of ``SAMPLE`` at most, spread evenly."""
    step = max(1.0, len(rows) / SAMPLE)
    chosen = [rows[int(at * step)] for at in range(min(len(rows), SAMPLE))]
    names = dict.fromkeys(name for row in chosen for name in row)
    return {name: [round(row[name], 4) for row in chosen if name in row] for name in names}


class History:
    """Entries in a database, the newest ``keep`` of each owner."""

    def __init__(self, database: Database, *, keep: int = KEPT) -> None:
        self._database = database
        self._keep = keep

    async def unnoted(self, kind: str) -> list[str]:
        """Return the ids of the jobs of a kind that are done and have no entry of that end.

        Those that ended before all that is kept of an owner with ``keep`` entries had theirs: it
        went, and another would go at once.
        """
        entry = sa.exists().where(ENTRIES.c.id == JOBS.c.id, ENTRIES.c.at == JOBS.c.finished_at)
        oldest = _newest(ENTRIES.c.owner == JOBS.c.owner, self._keep - 1).correlate(JOBS)
        kept = sa.func.coalesce(JOBS.c.finished_at > oldest.scalar_subquery(), sa.true())
        query = sa.select(JOBS.c.id).where(JOBS.c.kind == kind, JOBS.c.state == "done", ~entry)
        query = query.where(kept)
        async with self._database.read() as connection:
            found = await connection.execute(query.order_by(JOBS.c.finished_at).limit(_PAGE))
            return list(found.scalars())

    async def running(self, kind: str) -> int:
        """Return how many jobs of a kind run now, on every server of this database."""
        query = sa.select(sa.func.count()).select_from(JOBS)
        async with self._database.read() as connection:
            running = query.where(JOBS.c.kind == kind, JOBS.c.state == "running")
            return int(await connection.scalar(running) or 0)

    async def find(self, entry: str, at: float | None = None) -> Entry | None:
        """Return an entry, if it is there; with ``at`` only the one of that end."""
        query = sa.select(ENTRIES).where(ENTRIES.c.id == entry)
        if at is not None:
            query = query.where(ENTRIES.c.at == at)
        async with self._database.read() as connection:
            row = (await connection.execute(query)).mappings().first()
        return None if row is None else _entry(row)

    async def baseline(self, owner: str, but: str = "") -> Baseline:
        """Return the newest data sets that an owner's reconstructions were made of."""
        query = (
            sa.select(ENTRIES.c.measures, ENTRIES.c.registration_rate)
            .where(ENTRIES.c.owner == owner, ENTRIES.c.kind == RECONSTRUCTION, ENTRIES.c.id != but)
            .order_by(ENTRIES.c.at.desc(), ENTRIES.c.id)
            .limit(LOOKED_AT)
        )
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).all()
        measures = [msgspec.json.decode(text, type=dict[str, list[float]]) for text, _ in rows]
        return Baseline(measures, [rate for _, rate in rows if rate is not None])

    async def add(self, entry: Entry) -> bool:
        """Keep an entry. One of an earlier end is replaced.

        False when it is there already, and when it is older than all that is kept.
        """
        values = msgspec.structs.asdict(entry)
        texts = {name: msgspec.json.encode(values[name]).decode() for name in _JSON}
        try:
            async with self._database.begin() as connection:
                earlier = (ENTRIES.c.id == entry.id, ENTRIES.c.at != entry.at)
                await connection.execute(sa.delete(ENTRIES).where(*earlier))
                await connection.execute(sa.insert(ENTRIES).values(**{**values, **texts}))
                await connection.execute(_too_many(entry.owner, self._keep))
                left = sa.select(ENTRIES.c.id).where(ENTRIES.c.id == entry.id)
                return await connection.scalar(left) is not None
        except sa.exc.IntegrityError:
            return False

    async def entries(self, owner: str | None) -> AsyncIterator[Entry]:
        """Yield the entries of an owner, or of everybody, the oldest first."""
        query = sa.select(ENTRIES).order_by(ENTRIES.c.at, ENTRIES.c.id).limit(_PAGE)
        if owner is not None:
            query = query.where(ENTRIES.c.owner == owner)
        page, place = query, sa.tuple_(ENTRIES.c.at, ENTRIES.c.id)
        while True:
            async with self._database.read() as connection:
                rows = (await connection.execute(page)).mappings().all()
            for row in rows:
                yield _entry(row)
            if len(rows) < _PAGE:
                return
            page = query.where(place > sa.tuple_(rows[-1]["at"], rows[-1]["id"]))


class Cooldown:
    """Who may trigger a DAG: one run in so many seconds, whichever server asks."""

    def __init__(self, database: Database, seconds: float) -> None:
        self._database = database
        self._seconds = seconds

    async def claim(self, dag: str, run: str, now: float) -> str:
        """Take the turn for a run; return the earlier one that still counts, "" for none."""
        while True:
            try:
                return await self._claimed(dag, run, now)
            except sa.exc.IntegrityError:  # another server's was the first of all
                continue

    async def _claimed(self, dag: str, run: str, now: float) -> str:
        fresh = {"run": run, "at": now}
        mine = RETRAININGS.c.dag == dag
        async with self._database.begin() as connection:
            query = sa.select(RETRAININGS).where(mine).with_for_update()
            row = (await connection.execute(query)).mappings().first()
            if row is None:
                await connection.execute(sa.insert(RETRAININGS).values(dag=dag, **fresh))
                return ""
            # One that lies in the future is of a clock that was set back since.
            if 0 <= now - row["at"] < self._seconds:
                return str(row["run"])
            await connection.execute(sa.update(RETRAININGS).where(mine).values(**fresh))
        return ""

    async def give_up(self, dag: str, run: str) -> None:
        """Forget a claim whose run did not begin."""
        mine = (RETRAININGS.c.dag == dag, RETRAININGS.c.run == run)
        async with self._database.begin() as connection:
            await connection.execute(sa.delete(RETRAININGS).where(*mine))


_JSON = ("measures", "report")


def _too_many(owner: str, keep: int) -> sa.Delete:
    """Return what removes the entries of an owner but for the newest ``keep``."""
    mine = ENTRIES.c.owner == owner
    return sa.delete(ENTRIES).where(mine, ENTRIES.c.at <= _newest(mine, keep).scalar_subquery())


def _newest(mine: sa.ColumnElement[bool], number: int) -> sa.Select[tuple[float]]:
    """Return the time of an owner's newest entry but for ``number`` newer ones."""
    newest = sa.select(ENTRIES.c.at).where(mine).order_by(ENTRIES.c.at.desc())
    return newest.offset(number).limit(1)


def _entry(row: Any) -> Entry:
    values = dict(row)
    return Entry(**{**values, **{name: msgspec.json.decode(values[name]) for name in _JSON}})
