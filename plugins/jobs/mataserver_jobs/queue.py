"""What every change of the jobs goes through: it is announced, and webhooks learn of ends."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from mataserver_jobs import outbox
from mataserver_jobs.rows import claimed_update, record_of
from mataserver_jobs.table import CHANNEL, JOBS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mataserver_database import Connection, Database
    from mataserver_jobs.record import Record

KEEP_SECONDS = 7 * 86_400.0


class Queue:
    """The jobs in a database.

    A job that has ended is kept for ``keep`` seconds of ``lived``. All other times are by the clock
    of the database: those of the servers may differ, and an owner's oldest job comes first.
    """

    def __init__(
        self,
        database: Database,
        *,
        keep: float = KEEP_SECONDS,
        lived: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._keep = keep
        self._lived = lived

    def _end(self, state: str, message: str) -> dict[str, Any]:
        """Return what every end changes."""
        now = self._database.now()
        ended = {"state": state, "stage": state, "message": message, "finished_at": now}
        kept = {"expires_at": now + self._keep, "kept_until": self._lived() + self._keep}
        return {**ended, **kept, "holder": None, "lease_until": None}

    async def _update(self, record: Record, values: Mapping[str, Any]) -> bool:
        async with self._database.begin() as connection:
            row = (await connection.execute(claimed_update(record, values))).mappings().first()
            if row is not None:
                await self._changed(connection, [row])
        return row is not None

    async def _change(self, connection: Connection, job: str, values: Mapping[str, Any]) -> None:
        update = sa.update(JOBS).where(JOBS.c.id == job).values(**values).returning(*JOBS.c)
        await self._changed(connection, (await connection.execute(update)).mappings().all())

    async def _changed(self, connection: Connection, rows: Sequence[Any]) -> None:
        """Announce jobs that changed; the webhooks learn of those that ended, come what may."""
        for record in map(record_of, rows):
            if record.ended:
                await outbox.put(self._database, connection, record)
        await self._database.announce(connection, CHANNEL)
