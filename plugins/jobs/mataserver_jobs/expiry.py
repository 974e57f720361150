"""Which jobs are to go: those whose time is over, and the oldest of those that take too much."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from mataserver_jobs.queue import Queue
from mataserver_jobs.record import ENDED
from mataserver_jobs.table import JOBS

if TYPE_CHECKING:
    from collections.abc import Sequence

BATCH = 1000
"""How many ids a statement names: databases bound the parameters of one."""


class Expiry(Queue):
    """The queue as it is swept."""

    async def expired(self) -> list[str]:
        """Return the ids of the jobs whose time is over."""
        query = sa.select(JOBS.c.id).where(_kept_until() < self._lived(), JOBS.c.state.in_(ENDED))
        async with self._database.read() as connection:
            return list((await connection.execute(query)).scalars())

    async def over_budget(self, budget: int) -> list[str]:
        """Return the ids of the jobs that ended first, until the rest takes ``budget`` bytes.

        What jobs take that have not ended counts, and is not touched.
        """
        ended = (
            sa.select(JOBS.c.id, JOBS.c.bytes_used)
            .where(JOBS.c.state.in_(ENDED))
            .order_by(_kept_until(), JOBS.c.finished_at, JOBS.c.id)
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
            for part in (jobs[at : at + BATCH] for at in range(0, len(jobs), BATCH)):
                query = sa.select(JOBS.c.id).where(JOBS.c.id.in_(part))
                found.update((await connection.execute(query)).scalars())
        return found


def _kept_until() -> Any:
    """Return until when an ended job is kept, also of one that an older server wrote down."""
    return sa.func.coalesce(JOBS.c.kept_until, JOBS.c.expires_at)
