"""Jobs as those read them who follow one: a change wakes them all, and is read once for all."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mataserver import NotFound

if TYPE_CHECKING:
    from mataserver_jobs.record import Record
    from mataserver_jobs.store import Store

PAUSE_SECONDS = 0.1
"""The least time between two readings: many jobs may report at once."""


class FollowedJobs:
    """Reads the jobs of a queue, each for all who ask meanwhile.

    With a reading for each, some hundred followers would keep the database from who runs the jobs.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._wanted: dict[str, asyncio.Future[Record]] = {}
        self._reading: asyncio.Task[None] | None = None

    async def get(self, job: str) -> Record:
        """Return a job, read after this was called. Raises ``NotFound``, or ``Busy``."""
        loop = asyncio.get_running_loop()
        wanted = self._wanted.setdefault(job, loop.create_future())
        if self._reading is None or self._reading.done():
            self._reading = loop.create_task(self._read())
        return await asyncio.shield(wanted)

    async def _read(self) -> None:
        """Read what is wanted, until nothing is."""
        while self._wanted:
            wanted, self._wanted = self._wanted, {}
            try:
                found = await self._store.get_all(list(wanted))
            except Exception as error:  # noqa: BLE001 - it is told to those who wait
                for each in wanted.values():
                    each.set_exception(error)
            else:
                for job, each in wanted.items():
                    if job in found:
                        each.set_result(found[job])
                    else:
                        each.set_exception(NotFound(f"Job not found: {job[:64]}"))
            await asyncio.sleep(PAUSE_SECONDS)
