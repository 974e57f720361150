"""Which jobs are to go: those whose time is over, and the first of who has the most of too much."""

from __future__ import annotations

import heapq
from collections import deque
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from mataserver_jobs.queue import Queue
from mataserver_jobs.record import ENDED
from mataserver_jobs.table import JOBS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
        """Return the ids of the ended jobs that are to go until the rest takes ``budget`` bytes.

        Of the owner whose jobs take the most that goes which ended first, again and again. What
        jobs take that have not ended counts, and is not touched.
        """
        size = sa.func.sum(JOBS.c.bytes_used)
        ended = (
            sa.select(JOBS.c.owner, JOBS.c.id, JOBS.c.bytes_used)
            .where(JOBS.c.state.in_(ENDED))
            .order_by(_kept_until(), JOBS.c.finished_at, JOBS.c.id)
        )
        async with self._database.read() as connection:
            sizes = await connection.execute(sa.select(JOBS.c.owner, size).group_by(JOBS.c.owner))
            used = {owner: int(each) for owner, each in sizes}
            if sum(used.values()) <= budget:
                return []
            rows = (await connection.execute(ended)).all()
        jobs: dict[str, deque[tuple[str, int]]] = {}
        for owner, job, each in rows:
            jobs.setdefault(owner, deque()).append((job, each))
        return _first_to_go(used, jobs, sum(used.values()) - budget)

    async def known(self, jobs: Sequence[str]) -> set[str]:
        """Return which of these ids are of jobs."""
        found: set[str] = set()
        async with self._database.read() as connection:
            for part in (jobs[at : at + BATCH] for at in range(0, len(jobs), BATCH)):
                query = sa.select(JOBS.c.id).where(JOBS.c.id.in_(part))
                found.update((await connection.execute(query)).scalars())
        return found


def _first_to_go(
    used: Mapping[str, int], jobs: Mapping[str, deque[tuple[str, int]]], over: int
) -> list[str]:
    """Return which jobs go for ``over`` bytes: always one of the owner who has the most then.

    ``used`` has the bytes of each owner, ``jobs`` ids and bytes in the order in which they go.
    """
    found = []
    most = [(-used[owner], owner) for owner in jobs]
    heapq.heapify(most)
    while over > 0 and most:
        held, owner = most[0]
        job, size = jobs[owner].popleft()
        found.append(job)
        over -= size
        if jobs[owner]:
            heapq.heapreplace(most, (held + size, owner))
        else:
            heapq.heappop(most)
    return found


def _kept_until() -> Any:
    """Return until when an ended job is kept, also of one that an older server wrote down."""
    return sa.func.coalesce(JOBS.c.kept_until, JOBS.c.expires_at)
