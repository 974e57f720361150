"""What runners ask of the queue: claims that are counted, leases, and how an attempt ended.

A server claims a job in one statement and renews its lease by a timer, not by the job's events: a
step may be silent for long. A lease that another server, or the same one after a restart, sees
stand still for as long as it lasts is lost: whatever the clocks of the two say, which may differ or
be set. The job is claimed anew. Every update names the claim that it was made under, so that
a server that was taken for dead and lives changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa

from mataserver_jobs.queue import Queue
from mataserver_jobs.rows import QUEUED_AGAIN, claimed_update, json_of, record_of, sanitize_text
from mataserver_jobs.table import CHANNEL, JOBS, PROGRESS, SCHEMA
from mataserver_jobs.turns import next_job, note_turn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mataserver_jobs.record import Record

LEASE_SECONDS = 15.0
MAX_DEATHS = 3
"""Deaths of a job's own process after which it fails: it may be what kills it."""
MAX_LOSSES = 20
"""Leases lost with the server or its machine after which it fails."""
STAGE_LENGTH = 64


class Lease(NamedTuple):
    """The lease of a job that runs. ``until`` is another value after each renewal."""

    job: str
    claim: int
    until: float | None
    holder: str | None

    def unchanged(self) -> Any:
        """Return what is true of the job's row while the lease is what it was."""
        same = (JOBS.c.claim == self.claim, JOBS.c.lease_until.is_not_distinct_from(self.until))
        return sa.and_(JOBS.c.id == self.job, JOBS.c.state == "running", *same)


class Leases(Queue):
    """The queue as runners see it."""

    @property
    def is_shared(self) -> bool:
        """Whether a server that cannot reach the database may lose its jobs to others that can.

        What keeps one from SQLite's file, a lock or a full disk, keeps all from it.
        """
        return self._database.dialect == "postgresql"

    async def next_kind(self, kinds: Sequence[str]) -> str | None:
        """Return the kind of the job whose turn it is, of these kinds; None when none waits."""
        async with self._database.read() as connection:
            next_kind = sa.select(JOBS.c.kind).where(JOBS.c.id == next_job(kinds))
            return await connection.scalar(next_kind)

    async def claim(self, holder: str, kinds: Sequence[str]) -> Record | None:
        """Take the job whose turn it is, or None; it is held while its lease is renewed.

        Raises ``NewerSchemaError`` where the jobs are those of newer servers.
        """
        now = self._database.now()
        update = (
            sa.update(JOBS)
            .where(JOBS.c.id == next_job(kinds), JOBS.c.state == "queued")
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
            await self._database.check_version(connection, SCHEMA)
            # one after the other: each counts what the others just took
            await self._database.serialize(connection, "claims of jobs")
            row = (await connection.execute(update)).mappings().first()
            if row is not None:
                await note_turn(connection, row["owner"])
                await self._database.announce(connection, CHANNEL)
        return None if row is None else record_of(row)

    async def renew(self, record: Record) -> Record | None:
        """Renew a lease; return the job as it stands, or None when the claim is no longer valid."""
        values = {"lease_until": self._database.now() + LEASE_SECONDS}
        async with self._database.begin() as connection:
            row = (await connection.execute(claimed_update(record, values))).mappings().first()
        return None if row is None else record_of(row)

    async def report(self, record: Record, stage: str, progress: float, message: str) -> bool:
        """Note how far a job is; return whether the claim still counts."""
        values = {
            "stage": sanitize_text(stage)[:STAGE_LENGTH],
            "message": sanitize_text(message),
            "progress": sa.case((JOBS.c.progress > progress, JOBS.c.progress), else_=progress),
        }
        async with self._database.begin() as connection:
            row = (await connection.execute(claimed_update(record, values))).first()
            if row is not None:
                await self._database.announce(connection, PROGRESS)
        return row is not None

    async def finish(
        self, record: Record, result: Any, *, message: str = "Done.", bytes_used: int = 0
    ) -> bool:
        """Note that a job is done; return whether the claim still counted."""
        ended = self._end("done", sanitize_text(message))
        values = {**ended, "progress": 100.0, "result": json_of(result), "bytes_used": bytes_used}
        return await self._update(record, values)

    async def fail(self, record: Record, error: str, *, bytes_used: int = 0) -> bool:
        """Note that a job failed for good; return whether the claim still counted."""
        told = sanitize_text(error)
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
            "message": sanitize_text(f"Again: {reason}"),
        }
        return await self._update(record, values)

    async def release(self, record: Record) -> bool:
        """Queue a job again whose server shuts down: the next one continues it."""
        values = {**QUEUED_AGAIN, "message": "Interrupted by a restart of the server."}
        return await self._update(record, values)

    async def leases(self) -> list[Lease]:
        """Return the lease of every job that runs."""
        columns = (JOBS.c.id, JOBS.c.claim, JOBS.c.lease_until, JOBS.c.holder)
        query = sa.select(*columns).where(JOBS.c.state == "running")
        async with self._database.read() as connection:
            return [Lease(*row) for row in await connection.execute(query)]

    async def recover(self, lost: Sequence[Lease]) -> int:
        """Queue the jobs of lost leases again; return how many.

        One that was renewed since it was read is not lost, and left alone.
        """
        often = JOBS.c.losses + 1 >= MAX_LOSSES
        error = f"Its server was lost {MAX_LOSSES} times."
        failed = self._end("failed", error) | {"error": error, "losses": MAX_LOSSES}
        again = {**QUEUED_AGAIN, "losses": JOBS.c.losses + 1}
        again["message"] = "Its server was lost; it begins again."
        ended: list[Any] = []
        count = 0
        async with self._database.begin() as connection:
            for lease in lost:
                unchanged = lease.unchanged()
                over = sa.update(JOBS).where(unchanged, often).values(**failed).returning(*JOBS.c)
                ended += (await connection.execute(over)).mappings().all()
                update = sa.update(JOBS).where(unchanged).values(**again)
                count += (await connection.execute(update)).rowcount
            if count or ended:
                await self._changed(connection, ended)
        return count + len(ended)
