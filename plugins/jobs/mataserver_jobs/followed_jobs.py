"""Jobs as those read them who follow one: a change wakes them all, and is read once for all."""

from __future__ import annotations

import asyncio
import copy
import logging
from typing import TYPE_CHECKING

from mataserver import MataError, NotFound

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mataserver_jobs.record import Record
    from mataserver_jobs.store import Store

    Outcome = Record | MataError | None

PAUSE_SECONDS = 0.1
"""The least time between two readings: many jobs may report at once."""
_UNREADABLE = "The job cannot be read"

log = logging.getLogger("mataserver.plugin.jobs")


class FollowedJobs:
    """Reads the jobs of a queue, each for all who ask meanwhile.

    With a reading for each, some hundred followers would keep the database from who runs the jobs.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._wanted: dict[str, asyncio.Future[Outcome]] = {}
        self._reading: asyncio.Task[None] | None = None

    async def get(self, job: str) -> Record:
        """Return a job, read after this was called. Raises ``NotFound``, or ``Busy``."""
        loop = asyncio.get_running_loop()
        wanted = self._wanted.setdefault(job, loop.create_future())
        if self._reading is None or self._reading.done():
            self._reading = loop.create_task(self._read_wanted())
        found = await asyncio.shield(wanted)
        if found is None:
            raise NotFound(f"Job not found: {job[:64]}")
        if isinstance(found, MataError):  # each who waits raises one of their own
            raise copy.copy(found) from found
        return found

    async def _read_wanted(self) -> None:
        """Read what is wanted, until nothing is."""
        while self._wanted:
            wanted, self._wanted = self._wanted, {}
            found: dict[str, Outcome] = dict.fromkeys(wanted, MataError(_UNREADABLE))
            try:
                found = await self._read(list(wanted))
            finally:  # whatever it ends by, such as a lack of memory: nobody waits for ever
                for job, each in wanted.items():
                    each.set_result(found.get(job))
            await asyncio.sleep(PAUSE_SECONDS)

    async def _read(self, jobs: Sequence[str]) -> dict[str, Outcome]:
        """Read jobs in one statement; one by one if a row among them cannot be read."""
        try:
            return {**await self._store.get_all(jobs)}
        except MataError as error:  # the database is away: for all of them
            return dict.fromkeys(jobs, error)
        except Exception:
            if len(jobs) > 1:
                return {job: (await self._read([job])).get(job) for job in jobs}
            log.exception("job %s cannot be read", *jobs)
            return dict.fromkeys(jobs, MataError(_UNREADABLE))
