"""The measures and the drift report of each upload, in the server's database."""

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
MAX_ENTRIES = 1_000
"""The maximum entries of one owner; older ones are deleted."""
MAX_BASELINE = 200
"""The maximum data sets of a baseline, the newest."""
SAMPLE = 64
"""Photographs measured per upload, spread evenly: their medians are as informative."""
_PAGE = 100


class HistoryEntry(Struct, frozen=True, kw_only=True):
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


def sample_measures(rows: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Return the measures of photographs by feature, of ``SAMPLE`` at most, spread evenly."""
    step = max(1.0, len(rows) / SAMPLE)
    chosen = [rows[int(at * step)] for at in range(min(len(rows), SAMPLE))]
    names = dict.fromkeys(name for row in chosen for name in row)
    return {name: [round(row[name], 4) for row in chosen if name in row] for name in names}


class History:
    """Entries in a database, the newest ``keep`` of each owner."""

    def __init__(self, database: Database, *, keep: int = MAX_ENTRIES) -> None:
        self._database = database
        self._keep = keep

    async def unrecorded(self, kind: str) -> AsyncIterator[tuple[float, str]]:
        """Yield the ends and ids of the jobs of a kind that are done and have no entry of that end.

        The oldest end first, and all of them: some may be such that they never get one. Jobs that
        ended before the oldest entry of an owner with ``keep`` entries are left out: their entries
        were deleted, and new ones would be deleted immediately.
        """
        entry = sa.exists().where(ENTRIES.c.id == JOBS.c.id, ENTRIES.c.at == JOBS.c.finished_at)
        oldest = _newest(ENTRIES.c.owner == JOBS.c.owner, self._keep - 1).correlate(JOBS)
        kept = sa.func.coalesce(JOBS.c.finished_at > oldest.scalar_subquery(), sa.true())
        done = (JOBS.c.kind == kind, JOBS.c.state == "done", ~entry, kept)
        query = sa.select(JOBS.c.finished_at, JOBS.c.id).where(*done)
        query = query.order_by(JOBS.c.finished_at, JOBS.c.id).limit(_PAGE)
        page, place = query, sa.tuple_(JOBS.c.finished_at, JOBS.c.id)
        while True:
            async with self._database.read() as connection:
                rows = (await connection.execute(page)).all()
            for finished_at, job in rows:
                yield finished_at, job
            if len(rows) < _PAGE:
                return
            page = query.where(place > sa.tuple_(*rows[-1]))

    async def running(self, kind: str) -> int:
        """Return how many jobs of a kind are running, on all servers of this database."""
        query = sa.select(sa.func.count()).select_from(JOBS)
        async with self._database.read() as connection:
            running = query.where(JOBS.c.kind == kind, JOBS.c.state == "running")
            return int(await connection.scalar(running) or 0)

    async def find(self, entry: str, at: float | None = None) -> HistoryEntry | None:
        """Return an entry or None; with ``at`` only the one of that end."""
        query = sa.select(ENTRIES).where(ENTRIES.c.id == entry)
        if at is not None:
            query = query.where(ENTRIES.c.at == at)
        async with self._database.read() as connection:
            row = (await connection.execute(query)).mappings().first()
        return None if row is None else _entry(row)

    async def baseline(self, owner: str, but: str = "") -> Baseline:
        """Return the newest data sets of an owner's reconstructions."""
        query = (
            sa.select(ENTRIES.c.measures, ENTRIES.c.registration_rate)
            .where(ENTRIES.c.owner == owner, ENTRIES.c.kind == RECONSTRUCTION, ENTRIES.c.id != but)
            .order_by(ENTRIES.c.at.desc(), ENTRIES.c.id)
            .limit(MAX_BASELINE)
        )
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).all()
        measures = [msgspec.json.decode(text, type=dict[str, list[float]]) for text, _ in rows]
        return Baseline(measures, [rate for _, rate in rows if rate is not None])

    async def add(self, entry: HistoryEntry) -> bool:
        """Add an entry, replacing one of an earlier end.

        Returns False when it exists already, and when it is older than all kept entries.
        """
        values = msgspec.structs.asdict(entry)
        texts = {name: msgspec.json.encode(values[name]).decode() for name in _JSON}
        try:
            async with self._database.begin() as connection:
                earlier = (ENTRIES.c.id == entry.id, ENTRIES.c.at != entry.at)
                await connection.execute(sa.delete(ENTRIES).where(*earlier))
                await connection.execute(sa.insert(ENTRIES).values(**{**values, **texts}))
                await connection.execute(_delete_surplus(entry.owner, self._keep))
                left = sa.select(ENTRIES.c.id).where(ENTRIES.c.id == entry.id)
                return await connection.scalar(left) is not None
        except sa.exc.IntegrityError:
            return False

    async def entries(self, owner: str | None) -> AsyncIterator[HistoryEntry]:
        """Yield the entries of an owner, or of all, the oldest first."""
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
    """Limits a DAG to one run in so many seconds, across all servers."""

    def __init__(self, database: Database, seconds: float) -> None:
        self._database = database
        self._seconds = seconds

    async def claim(self, dag: str, run: str, now: float) -> str:
        """Claim a run; return the earlier one if its cooldown has not passed, else ""."""
        while True:
            try:
                return await self._try_claim(dag, run, now)
            except sa.exc.IntegrityError:  # another server inserted the first claim
                continue

    async def _try_claim(self, dag: str, run: str, now: float) -> str:
        fresh = {"run": run, "at": now}
        mine = RETRAININGS.c.dag == dag
        async with self._database.begin() as connection:
            query = sa.select(RETRAININGS).where(mine).with_for_update()
            row = (await connection.execute(query)).mappings().first()
            if row is None:
                await connection.execute(sa.insert(RETRAININGS).values(dag=dag, **fresh))
                return ""
            # A time in the future means that the clock was set back since.
            if 0 <= now - row["at"] < self._seconds:
                return str(row["run"])
            await connection.execute(sa.update(RETRAININGS).where(mine).values(**fresh))
        return ""

    async def release(self, dag: str, run: str) -> None:
        """Delete a claim whose run did not start."""
        mine = (RETRAININGS.c.dag == dag, RETRAININGS.c.run == run)
        async with self._database.begin() as connection:
            await connection.execute(sa.delete(RETRAININGS).where(*mine))


_JSON = ("measures", "report")


def _delete_surplus(owner: str, keep: int) -> sa.Delete:
    """Return the statement that deletes an owner's entries except the newest ``keep``."""
    mine = ENTRIES.c.owner == owner
    return sa.delete(ENTRIES).where(mine, ENTRIES.c.at <= _newest(mine, keep).scalar_subquery())


def _newest(mine: sa.ColumnElement[bool], number: int) -> sa.Select[tuple[float]]:
    """Return the time of an owner's newest entry, skipping ``number`` newer ones."""
    newest = sa.select(ENTRIES.c.at).where(mine).order_by(ENTRIES.c.at.desc())
    return newest.offset(number).limit(1)


def _entry(row: Any) -> HistoryEntry:
    values = dict(row)
    return HistoryEntry(**{**values, **{name: msgspec.json.decode(values[name]) for name in _JSON}})
