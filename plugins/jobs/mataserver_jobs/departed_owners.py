"""Cleans up after removed principals: removed users and revoked keys.

Only an administrator could still see or stop their work, which would run without permission: their
webhooks and uploads are removed, their waiting and running jobs are cancelled. Ended jobs are kept
as long as any.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import sqlalchemy as sa

from mataserver import Conflict, MataError, NotFound
from mataserver_jobs.record import ENDED
from mataserver_jobs.table import JOBS, TURNS, WEBHOOKS

if TYPE_CHECKING:
    import logging
    from collections.abc import Awaitable, Callable, Collection, Sequence

    from mataserver_database import Database
    from mataserver_jobs.store import Store
    from mataserver_jobs.uploads import Uploads

    DepartedCheck = Callable[[Collection[str]], Awaitable[set[str]]]
    """Returns which ids of principals are of removed ones, as far as it knows."""

MIN_PAUSE = 1.0
"""Seconds between two looks at least: a database may change many times a second."""
MAX_PAUSE = 60.0


class DepartedOwnerCleaner:
    """Checks periodically, and soon after a change, for removed owners."""

    def __init__(
        self,
        database: Database,
        store: Store,
        uploads: Uploads,
        checks: Sequence[DepartedCheck],
        log: logging.Logger,
    ) -> None:
        self._database = database
        self._store = store
        self._uploads = uploads
        self._checks = checks
        self._log = log
        self._wake_event = asyncio.Event()
        self._closing = asyncio.Event()

    def wake(self) -> None:
        """Have it look soon."""
        self._wake_event.set()

    def close(self) -> None:
        """End."""
        self._closing.set()
        self._wake_event.set()

    async def run(self) -> None:
        """Check until ``close``; return immediately without any checks."""
        while self._checks and not self._closing.is_set():
            self._wake_event.clear()
            with contextlib.suppress(MataError):  # a database that is busy: the next time
                await self.sweep()
            await _within(self._closing, MIN_PAUSE)
            await _within(self._wake_event, MAX_PAUSE)

    async def sweep(self) -> set[str]:
        """Clean up after removed owners; return their ids."""
        owners = await self._owners()
        found = [await check(owners) for check in self._checks] if owners else []
        gone = set[str]().union(*found)
        for owner in sorted(gone):
            self._log.info("%s is no more: webhooks, uploads and jobs under way go", owner)
            await self._remove(owner)
        return gone

    async def _owners(self) -> set[str]:
        """Return whose webhooks, uploads, turns, and jobs that have not ended there are."""
        waiting = sa.select(JOBS.c.owner).where(JOBS.c.state.not_in(ENDED)).distinct()
        async with self._database.read() as connection:
            found = set(await connection.scalars(sa.select(WEBHOOKS.c.owner).distinct()))
            found |= set(await connection.scalars(sa.select(TURNS.c.owner)))
            found |= set(await connection.scalars(waiting))
        return found | await asyncio.to_thread(self._uploads.owners)

    async def _remove(self, owner: str) -> None:
        mine = sa.select(JOBS.c.id).where(JOBS.c.owner == owner, JOBS.c.state.not_in(ENDED))
        async with self._database.begin() as connection:
            # before the jobs, so that their ends are not delivered
            await connection.execute(sa.delete(WEBHOOKS).where(WEBHOOKS.c.owner == owner))
            jobs = list(await connection.scalars(mine))
            await connection.execute(sa.delete(TURNS).where(TURNS.c.owner == owner))
        for job in jobs:
            with contextlib.suppress(NotFound, Conflict):  # it has ended meanwhile
                await self._store.cancel(job)
        await asyncio.to_thread(self._uploads.remove_of, owner)


async def _within(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
