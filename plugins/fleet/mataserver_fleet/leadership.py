"""Leader election: one of the servers on a database supervises the Tritons, by a lease."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING

import sqlalchemy as sa

from mataserver_database import LeaseWatch
from mataserver_fleet.tables import FACTS, SCHEMA

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver_database import Connection
    from mataserver_fleet.store import Store

LEASE_SECONDS = 3.0
RENEW_SECONDS = 0.75
_ROW = FACTS.c.name == "leader"


class LeaderLease:
    """A server's claim to the leader's lease."""

    def __init__(self, store: Store, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._name = str(uuid.uuid4())
        self._watch = LeaseWatch(LEASE_SECONDS, monotonic)

    async def acquire(self) -> bool:
        """Take or renew the lease; return whether this server holds it.

        Raises ``Busy``, and ``NewerSchemaError`` where the fleet is that of newer servers.
        """
        fresh = {"value": self._name, "until": self._store.clock() + LEASE_SECONDS}
        try:
            async with self._store.database.begin() as connection:
                await self._store.database.check_version(connection, SCHEMA)
                held = (await connection.execute(sa.select(FACTS).where(_ROW))).mappings().first()
                if held is None:
                    await connection.execute(sa.insert(FACTS).values(name="leader", **fresh))
                    return True
                if not self._may_take(held["value"], held["until"]):
                    return False
                same = (FACTS.c.value == held["value"], FACTS.c.until == held["until"])
                taking = sa.update(FACTS).where(_ROW, *same).values(**fresh)
                return bool((await connection.execute(taking)).rowcount)
        except sa.exc.IntegrityError:  # another was quicker
            return False

    async def is_held(self, connection: Connection) -> bool:
        """Whether no other server has taken the lease since this one did, in a transaction."""
        return await connection.scalar(sa.select(FACTS.c.value).where(_ROW)) == self._name

    def _may_take(self, holder: str, until: float) -> bool:
        """Whether the lease is this server's, was given up, or stood still for as long as it lasts.

        What it ends at is told by its holder's clock, which may differ from this one.
        """
        is_over = bool(self._watch.expired({holder: until}))
        return holder == self._name or not until or is_over

    async def release(self) -> None:
        """Release the lease, so that another server can take it immediately."""
        own = sa.update(FACTS).where(_ROW, FACTS.c.value == self._name).values(until=0.0)
        async with self._store.database.begin() as connection:
            await connection.execute(own)
