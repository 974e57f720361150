"""The database as a service: open while the server runs, and known to ``GET /ready``."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Self

from mataserver import MataError, Unavailable
from mataserver_database.database import FILE, Database
from mataserver_database.failures import BUSY, Busy, reason_of
from mataserver_database.schema import NewerSchemaError
from mataserver_database.trouble_log import TROUBLES

if TYPE_CHECKING:
    from mataserver import Context

PROBE_SECONDS = 2.0
"""How often it is asked whether it answers."""


class DatabaseService:
    """Opens the database when it is entered."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._database: Database | None = None
        self._problem = ""
        self._stopping = asyncio.Event()
        self._probe_task: asyncio.Task[None] | None = None

    @property
    def database(self) -> Database:
        """The database, once the service is entered. Raises ``Unavailable`` before and after."""
        if self._database is None:
            raise Unavailable("The database is not open")
        return self._database

    def routes(self) -> tuple[()]:
        """There are none."""
        return ()

    def waiting(self) -> dict[str, Any]:
        """Return why the database does not answer; empty while it does."""
        return {"database": self._problem} if self._problem else {}

    async def __aenter__(self) -> Self:
        """Open the database. Raises ``MataError`` when it cannot be used."""
        settings = self._ctx.settings
        database = Database(
            self._ctx.data_dir, settings.url, timeout=settings.timeout, pool=settings.pool
        )
        try:
            await database.check()
        except BaseException as error:
            await database.close()
            if isinstance(error, Busy):  # whose cause names neither statement nor value
                place = "plugins.database.url" if settings.url else self._ctx.data_dir / FILE
                error.hint = f"{place}: {reason_of(error)}"
            raise
        self._database = database
        # Not a task of the context: those are cancelled, and a driver must not be in mid-statement.
        self._probe_task = asyncio.create_task(self._probe(database))
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close it."""
        self._stopping.set()
        if self._probe_task is not None:
            await self._probe_task
        if self._database is not None:
            database, self._database = self._database, None
            await database.close()

    async def _probe(self, database: Database) -> None:
        """Note whether the database answers, until the server ends."""
        while not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PROBE_SECONDS):
                    await self._stopping.wait()
                return
            await self._check(database)

    async def _check(self, database: Database) -> None:
        """Note whether the database answers, and at once when it takes too long."""
        checking = asyncio.ensure_future(database.check())
        await asyncio.wait([checking], timeout=self._ctx.settings.timeout)
        if not checking.done():
            self._problem = BUSY
        try:
            await checking
        except Busy as error:
            self._problem = error.detail
        except NewerSchemaError as error:
            if error.detail != self._problem:
                self._ctx.log.warning("%s", error.detail)
            self._problem = error.detail
        except MataError as error:  # of the URL: what it refers to may be repaired meanwhile
            TROUBLES.tell(error.detail)
            self._problem = BUSY
        else:
            self._problem = ""
