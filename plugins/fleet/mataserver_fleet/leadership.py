"""Leader election: one of the servers on a database supervises the Tritons, by a lease."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import sqlalchemy as sa

from mataserver_fleet.tables import FACTS

if TYPE_CHECKING:
    from mataserver_fleet.store import Store

LEASE_SECONDS = 3.0
RENEW_SECONDS = 0.75
_ROW = FACTS.c.name == "leader"


class LeaderLease:
    """A server's claim to the leader's lease."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._name = str(uuid.uuid4())

    async def acquire(self) -> bool:
        """Take or renew the lease; return whether this server holds it. Raises ``Busy``."""
        now = self._store.clock()
        free = sa.or_(FACTS.c.value == self._name, FACTS.c.until < now)
        fresh = {"value": self._name, "until": now + LEASE_SECONDS}
        try:
            async with self._store.database.begin() as connection:
                done = await connection.execute(sa.update(FACTS).where(_ROW, free).values(**fresh))
                if done.rowcount:
                    return True
                if (await connection.execute(sa.select(FACTS).where(_ROW))).first() is None:
                    await connection.execute(sa.insert(FACTS).values(name="leader", **fresh))
                    return True
                return False
        except sa.exc.IntegrityError:  # another was quicker
            return False

    async def release(self) -> None:
        """Release the lease, so that another server can take it immediately."""
        own = sa.update(FACTS).where(_ROW, FACTS.c.value == self._name).values(until=0.0)
        async with self._store.database.begin() as connection:
            await connection.execute(own)
