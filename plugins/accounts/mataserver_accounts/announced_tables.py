"""What every reading and change of accounts goes through: a change is announced to all."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from mataserver_accounts.tables import CHANNEL, SECRETS

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver_accounts.passwords import Passwords
    from mataserver_database import Connection, Database, Page, Rows, Sorting


class AnnouncedTables:
    """The tables of accounts. ``clock`` gives Unix seconds."""

    def __init__(
        self, database: Database, passwords: Passwords, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._passwords = passwords
        self._clock = clock

    async def _page(self, sorting: Sorting, query: sa.Select[Any], page: Page) -> Rows:
        """Return a page of what a query finds. Raises ``InvalidParams``."""
        async with self._database.read() as connection:
            return await sorting.page(connection, query, page)

    async def _write(self, statement: Any) -> int:
        """Execute and announce a change; return how many rows it changed."""
        async with self._database.begin() as connection:
            count = (await connection.execute(statement)).rowcount
            await self._announce(connection)
        return int(count)

    async def _announce(self, connection: Connection) -> None:
        """Notify every process of a change, once the transaction is committed."""
        fresh = sa.update(SECRETS).where(SECRETS.c.name == "version")
        await connection.execute(fresh.values(value=str(uuid.uuid4())))
        await self._database.announce(connection, CHANNEL)
