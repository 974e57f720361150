"""The durable queue: what clients ask of it, beside what runners do (``leases``) and sweeps."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import sqlalchemy as sa

from mataserver import Conflict, NotFound
from mataserver_database import Page, Sorting
from mataserver_jobs.expiry import BATCH, Expiry
from mataserver_jobs.leases import Leases
from mataserver_jobs.record import Record, is_id
from mataserver_jobs.rows import json_of, locked, record_of, row_of
from mataserver_jobs.table import CHANNEL, JOBS

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from msgspec import UnsetType

FIRST = Page(limit=100)
_NEWEST_FIRST = Sorting("jobs", JOBS.c.created_at, JOBS.c.id, descending={"created_at"})


class FoundJobs(NamedTuple):
    """A page of the jobs, how many there are in all, and what gives the next page."""

    jobs: list[Record]
    total: int
    next_cursor: str | UnsetType


class Store(Leases, Expiry):
    """Jobs in a database, for all who ask."""

    async def submit(
        self,
        kind: str,
        owner: str,
        spec: Any,
        *,
        key: str | None = None,
        id: str | None = None,  # noqa: A002
        bytes_used: int = 0,
    ) -> Record:
        """Queue a job and return it. ``bytes_used`` is what was uploaded for it.

        With an idempotency ``key`` that the owner has used for this kind, the job of that time is
        returned. Raises ``Conflict`` when that one was asked something else.
        """
        record = Record(
            id=id or str(uuid.uuid4()),
            kind=kind,
            owner=owner,
            state="queued",
            stage="queued",
            progress=0.0,
            message="Waiting for its turn.",
            spec=spec,
            created_at=0.0,  # the database tells
            idempotency_key=key,
            bytes_used=bytes_used,
        )
        try:
            async with self._database.begin() as connection:
                values = row_of(record) | {"created_at": self._database.now()}
                insertion = sa.insert(JOBS).values(**values).returning(JOBS.c.created_at)
                created_at = await connection.scalar(insertion)
                await self._database.announce(connection, CHANNEL)
        except sa.exc.IntegrityError:
            known = await self.submitted(kind, owner, spec, key)
            if known is None:
                raise Conflict("A job with this id exists already") from None
            return known
        return msgspec.structs.replace(record, created_at=created_at)

    async def submitted(self, kind: str, owner: str, spec: Any, key: str | None) -> Record | None:
        """Return the job that was submitted with an idempotency key, None when there is none.

        Raises ``Conflict`` for one that was asked something else.
        """
        if key is None:
            return None
        query = sa.select(JOBS).where(
            JOBS.c.owner == owner, JOBS.c.kind == kind, JOBS.c.idempotency_key == key
        )
        async with self._database.read() as connection:
            row = (await connection.execute(query)).mappings().first()
        if row is None:
            return None
        known = record_of(row)
        if msgspec.json.encode(known.spec) != msgspec.json.encode(spec):
            raise Conflict("This idempotency key was used for another request")
        return known

    async def get(self, job: str, owner: str | None = None) -> Record:
        """Return a job; with ``owner``, only one of theirs. Raises ``NotFound``."""
        if not is_id(job):
            raise NotFound(f"Job not found: {job[:64]!r}")
        query = sa.select(JOBS).where(JOBS.c.id == job)
        if owner is not None:
            query = query.where(JOBS.c.owner == owner)
        async with self._database.read() as connection:
            row = (await connection.execute(query)).mappings().first()
        if row is None:
            raise NotFound(f"Job not found: {job[:64]}")
        return record_of(row)

    async def get_all(self, jobs: Sequence[str]) -> dict[str, Record]:
        """Return those of some jobs that there are, by their ids."""
        found: dict[str, Record] = {}
        async with self._database.read() as connection:
            for part in (jobs[at : at + BATCH] for at in range(0, len(jobs), BATCH)):
                rows = await connection.execute(sa.select(JOBS).where(JOBS.c.id.in_(part)))
                found.update((row["id"], record_of(row)) for row in rows.mappings())
        return found

    async def find(
        self,
        *,
        owner: str | None = None,
        kind: str | None = None,
        states: Sequence[str] = (),
        page: Page = FIRST,
        omitted: Collection[str] = (),
    ) -> FoundJobs:
        """Return a page of the jobs, newest first.

        ``omitted`` are names of ``rows.OPEN`` that are not read: None in every job. Raises
        ``InvalidParams`` for the cursor of another list.
        """
        wanted = [
            *([JOBS.c.owner == owner] if owner is not None else ()),
            *([JOBS.c.kind == kind] if kind is not None else ()),
            *([JOBS.c.state.in_(states)] if states else ()),
        ]
        read = (column for column in JOBS.c if column.name not in omitted)
        query = sa.select(*read).where(*wanted)
        async with self._database.read() as connection:
            rows = await _NEWEST_FIRST.page(connection, query, page)
        return FoundJobs([record_of(row) for row in rows.found], rows.total, rows.next_cursor)

    async def cancel(self, job: str) -> Record:
        """Have a job stop: at once while it is queued, soon while it runs.

        Raises ``NotFound``, or ``Conflict`` for one that has ended.
        """
        async with self._database.begin() as connection:
            record = await locked(connection, job)
            if record.ended:
                raise Conflict(f"The job has ended: {record.state}")
            changes: dict[str, Any] = {"cancel": True}
            if record.state == "queued":
                begun = record.started_at is not None
                told = "Cancelled." if begun else "Cancelled; it had not begun."
                changes |= self._end("cancelled", told)
            await self._change(connection, job, changes)
        return await self.get(job)

    async def restart(self, job: str, spec: Any) -> Record:
        """Queue a job that has ended once more, with a new specification.

        Raises ``NotFound``, or ``Conflict`` for one that has not ended.
        """
        async with self._database.begin() as connection:
            record = await locked(connection, job)
            if not record.ended:
                raise Conflict(f"The job has not ended: {record.state}")
            fresh = {"state": "queued", "stage": "queued", "progress": 0.0, "cancel": False}
            fresh |= {"message": "Waiting for its turn.", "deaths": 0, "losses": 0}
            of_the_end = ("result", "error", "finished_at", "expires_at", "kept_until")
            fresh |= dict.fromkeys(("started_at", *of_the_end))
            await self._change(connection, job, {**fresh, "spec": json_of(spec)})
        return await self.get(job)

    async def remove(self, job: str) -> None:
        """Forget a job that has ended. Raises ``NotFound``, or ``Conflict`` for another."""
        async with self._database.begin() as connection:
            record = await locked(connection, job)
            if not record.ended:
                raise Conflict(f"The job has not ended: {record.state}; cancel it first")
            await connection.execute(sa.delete(JOBS).where(JOBS.c.id == job))
            await self._database.announce(connection, CHANNEL)
