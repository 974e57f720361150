"""The durable queue: one table, leases, and claims that are counted.

A server claims a job in one statement and renews its lease by a timer, not by the job's events: a
step may be silent for long. A lease that was not renewed is over: another server, or the same one
after a restart, claims the job anew. Every update names the claim that it was made under, so that
a server that was taken for dead and lives changes nothing.
"""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any

import msgspec
import sqlalchemy as sa

from mataserver import Conflict, NotFound
from mataserver_jobs import outbox
from mataserver_jobs.record import ENDED, Record, is_id
from mataserver_jobs.rows import (
    QUEUED_AGAIN,
    claimed,
    json_of,
    locked,
    record_of,
    row_of,
    storable,
)
from mataserver_jobs.table import CHANNEL, JOBS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from mataserver_database import Database

LEASE_SECONDS = 15.0
MAX_DEATHS = 3
"""Deaths of a job's own process after which it fails: it may be what kills it."""
MAX_LOSSES = 20
"""Leases lost with the server or its machine after which it fails."""
KEEP_SECONDS = 7 * 86_400.0
STAGE_LENGTH = 64
_AT_ONCE = 1000
"""How many ids a statement names: databases bound the parameters of one."""


class Store:
    """Jobs in a database.

    ``clock`` gives Unix seconds; a job that has ended is kept for ``keep`` seconds.
    """

    def __init__(
        self,
        database: Database,
        clock: Callable[[], float] = time.time,
        *,
        keep: float = KEEP_SECONDS,
    ) -> None:
        self._database = database
        self._clock = clock
        self._keep = keep

    # asked by clients

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
            created_at=self._clock(),
            idempotency_key=key,
            bytes_used=bytes_used,
        )
        try:
            async with self._database.begin() as connection:
                await connection.execute(sa.insert(JOBS).values(**row_of(record)))
                await self._database.announce(connection, CHANNEL)
        except sa.exc.IntegrityError:
            known = await self.submitted(kind, owner, spec, key)
            if known is None:
                raise Conflict("A job with this id exists already") from None
            return known
        return record

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

    async def find(
        self,
        *,
        owner: str | None = None,
        kind: str | None = None,
        states: Sequence[str] = (),
        limit: int = 100,
        offset: int = 0,
    ) -> tuple[list[Record], int]:
        """Return a page of the jobs, newest first, and how many there are in all."""
        wanted = [
            *([JOBS.c.owner == owner] if owner is not None else ()),
            *([JOBS.c.kind == kind] if kind is not None else ()),
            *([JOBS.c.state.in_(states)] if states else ()),
        ]
        query = sa.select(JOBS).where(*wanted).order_by(JOBS.c.created_at.desc(), JOBS.c.id)
        async with self._database.read() as connection:
            total = await connection.scalar(
                sa.select(sa.func.count()).select_from(JOBS).where(*wanted)
            )
            rows = (await connection.execute(query.limit(limit).offset(offset))).mappings().all()
        return [record_of(row) for row in rows], int(total or 0)

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
                changes |= self._end("cancelled", "Cancelled before it began.")
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
            fresh |= dict.fromkeys(("result", "error", "started_at", "finished_at", "expires_at"))
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

    async def expired(self) -> list[str]:
        """Return the ids of the jobs whose time is over."""
        query = sa.select(JOBS.c.id).where(
            JOBS.c.expires_at < self._clock(), JOBS.c.state.in_(ENDED)
        )
        async with self._database.read() as connection:
            return list((await connection.execute(query)).scalars())

    async def over(self, budget: int) -> list[str]:
        """Return the ids of the jobs that ended first, until the rest takes ``budget`` bytes.

        What jobs take that have not ended counts, and is not touched.
        """
        ended = (
            sa.select(JOBS.c.id, JOBS.c.bytes_used)
            .where(JOBS.c.state.in_(ENDED))
            .order_by(JOBS.c.finished_at, JOBS.c.id)
        )
        async with self._database.read() as connection:
            used = await connection.scalar(sa.select(sa.func.sum(JOBS.c.bytes_used)))
            if int(used or 0) <= budget:
                return []
            rows = (await connection.execute(ended)).all()
        found, left = [], int(used or 0)
        for job, size in rows:
            if left <= budget:
                break
            found.append(job)
            left -= size
        return found

    async def known(self, jobs: Sequence[str]) -> set[str]:
        """Return which of these ids are of jobs."""
        found: set[str] = set()
        async with self._database.read() as connection:
            for part in (jobs[at : at + _AT_ONCE] for at in range(0, len(jobs), _AT_ONCE)):
                query = sa.select(JOBS.c.id).where(JOBS.c.id.in_(part))
                found.update((await connection.execute(query)).scalars())
        return found

    # asked by runners

    async def next_kind(self, kinds: Sequence[str]) -> str | None:
        """Return the kind of the oldest job that waits, of these; None when there is none."""
        waiting = (
            sa.select(JOBS.c.kind)
            .where(JOBS.c.state == "queued", JOBS.c.kind.in_(kinds))
            .order_by(JOBS.c.created_at, JOBS.c.id)
            .limit(1)
        )
        async with self._database.read() as connection:
            return await connection.scalar(waiting)

    async def claim(self, holder: str, kinds: Sequence[str]) -> Record | None:
        """Take the oldest job that waits, or None; it is held while its lease is renewed."""
        now = self._clock()
        waiting = (
            sa.select(JOBS.c.id)
            .where(JOBS.c.state == "queued", JOBS.c.kind.in_(kinds))
            .order_by(JOBS.c.created_at, JOBS.c.id)
            .limit(1)
            .with_for_update(skip_locked=True)
            .scalar_subquery()
        )
        update = (
            sa.update(JOBS)
            .where(JOBS.c.id == waiting, JOBS.c.state == "queued")
            .values(
                state="running",
                stage="starting",
                holder=holder,
                claim=JOBS.c.claim + 1,
                lease_until=now + LEASE_SECONDS,
                started_at=sa.func.coalesce(JOBS.c.started_at, now),
            )
            .returning(*JOBS.c)
        )
        async with self._database.begin() as connection:
            row = (await connection.execute(update)).mappings().first()
            if row is not None:
                await self._database.announce(connection, CHANNEL)
        return None if row is None else record_of(row)

    async def renew(self, record: Record) -> Record | None:
        """Renew a lease; return the job as it stands, or None when the claim counts no more."""
        values = {"lease_until": self._clock() + LEASE_SECONDS}
        async with self._database.begin() as connection:
            row = (await connection.execute(claimed(record, values))).mappings().first()
        return None if row is None else record_of(row)

    async def report(self, record: Record, stage: str, progress: float, message: str) -> bool:
        """Note how far a job is; return whether the claim still counts."""
        values = {
            "stage": storable(stage)[:STAGE_LENGTH],
            "message": storable(message),
            "progress": sa.case((JOBS.c.progress > progress, JOBS.c.progress), else_=progress),
        }
        return await self._update(record, values)

    async def finish(self, record: Record, result: Any, *, bytes_used: int = 0) -> bool:
        """Note that a job is done; return whether the claim still counted."""
        ended = self._end("done", "Done.")
        values = {**ended, "progress": 100.0, "result": json_of(result), "bytes_used": bytes_used}
        return await self._update(record, values)

    async def fail(self, record: Record, error: str, *, bytes_used: int = 0) -> bool:
        """Note that a job failed for good; return whether the claim still counted."""
        told = storable(error)
        values = {**self._end("failed", told), "error": told, "bytes_used": bytes_used}
        return await self._update(record, values)

    async def stopped(self, record: Record, result: Any, *, bytes_used: int = 0) -> bool:
        """Note that a job stopped as it was asked to; its progress stays where it was."""
        values = {**self._end("cancelled", "Cancelled."), "bytes_used": bytes_used}
        return await self._update(record, {**values, "result": json_of(result)})

    async def died(self, record: Record, reason: str, *, bytes_used: int = 0) -> bool:
        """Queue a job whose process died once more, or fail it when that happened too often."""
        if record.deaths + 1 >= MAX_DEATHS:
            error = f"Its process died {MAX_DEATHS} times: {reason}"
            return await self.fail(record, error, bytes_used=bytes_used)
        values = {
            **QUEUED_AGAIN,
            "deaths": record.deaths + 1,
            "message": storable(f"Again: {reason}"),
        }
        return await self._update(record, values)

    async def release(self, record: Record) -> bool:
        """Queue a job again whose server shuts down: the next one goes on with it."""
        values = {**QUEUED_AGAIN, "message": "Interrupted by a restart of the server."}
        return await self._update(record, values)

    async def recover(self, dead: Sequence[str] = (), held: Sequence[str] = ()) -> int:
        """Queue the jobs again whose lease is over, or whose holder is ``dead``; return how many.

        A lease that ends later than any can is over too: the clock was set back. The jobs ``held``,
        by their ids, are left alone: who asks still works on them.
        """
        now = self._clock()
        lost = sa.and_(
            JOBS.c.state == "running",
            JOBS.c.id.not_in(held),
            sa.or_(
                JOBS.c.lease_until < now,
                JOBS.c.lease_until > now + 2 * LEASE_SECONDS,
                JOBS.c.holder.in_(dead),
            ),
        )
        often = JOBS.c.losses + 1 >= MAX_LOSSES
        error = f"Its server was lost {MAX_LOSSES} times."
        async with self._database.begin() as connection:
            failed = self._end("failed", error) | {"error": error, "losses": MAX_LOSSES}
            over = sa.update(JOBS).where(lost, often).values(**failed).returning(*JOBS.c)
            rows = (await connection.execute(over)).mappings().all()
            again = {**QUEUED_AGAIN, "losses": JOBS.c.losses + 1}
            again["message"] = "Its server was lost; it begins again."
            update = sa.update(JOBS).where(lost).values(**again)
            count = len(rows) + (await connection.execute(update)).rowcount
            if count:
                await self._changed(connection, rows)
        return int(count)

    # the inside

    def _end(self, state: str, message: str) -> dict[str, Any]:
        """Return what every end changes."""
        now = self._clock()
        ended = {"state": state, "stage": state, "message": message, "finished_at": now}
        return ended | {"expires_at": now + self._keep, "holder": None, "lease_until": None}

    async def _update(self, record: Record, values: Mapping[str, Any]) -> bool:
        async with self._database.begin() as connection:
            row = (await connection.execute(claimed(record, values))).mappings().first()
            if row is not None:
                await self._changed(connection, [row])
        return row is not None

    async def _change(
        self, connection: AsyncConnection, job: str, values: Mapping[str, Any]
    ) -> None:
        update = sa.update(JOBS).where(JOBS.c.id == job).values(**values).returning(*JOBS.c)
        await self._changed(connection, (await connection.execute(update)).mappings().all())

    async def _changed(self, connection: AsyncConnection, rows: Sequence[Any]) -> None:
        """Announce jobs that changed; the webhooks learn of those that ended, come what may."""
        for record in map(record_of, rows):
            if record.ended:
                await outbox.put(connection, record, self._clock())
        await self._database.announce(connection, CHANNEL)
