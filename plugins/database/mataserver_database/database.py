"""The database: transactions, readings, migrations, and word of what other processes changed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.util import greenlet_spawn

from mataserver_database import engines, migrations
from mataserver_database.changes import ChangeNotifier
from mataserver_database.connection import transaction
from mataserver_database.failures import Busy, translated_errors
from mataserver_database.file import DatabaseFile

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from mataserver_database.connection import Connection
    from mataserver_database.schema import Schema

FILE = "mataserver.db"
_LOOKS = {"sqlite": "SELECT count(*) FROM sqlite_master", "postgresql": "SELECT 1"}
"""What reads something: SQLite answers a constant without a look at its file."""
_POSTGRES_NOW = sa.cast(sa.extract("epoch", sa.func.statement_timestamp()), sa.Double)
_SERIALIZE = sa.text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))")

log = logging.getLogger("mataserver.plugin.database")


class Database:
    """One database. Its statements are SQLAlchemy's, the same for SQLite and PostgreSQL.

    Who is cancelled while a statement runs waits for its end, and what they wrote is rolled back: a
    driver that is cancelled in mid-statement keeps its transaction open, and with it others out.

    Whatever fails because the database is locked, gone or full is raised as ``Busy``, the last as
    its children ``Full`` and ``Exhausted``, whose sentence tells no statement and no value.
    """

    def __init__(
        self, data_dir: Path, url: str | None = None, *, timeout: float = 10.0, pool: int = 5
    ) -> None:
        self._timeout = timeout
        self._lock_file = None if url else data_dir / f"{FILE}.lock"
        self._file = None if url else DatabaseFile(data_dir / FILE)
        self._engine = (
            engines.postgres(url, timeout, pool)
            if url
            else engines.sqlite(data_dir / FILE, timeout)
        )
        self._changes = ChangeNotifier(self._engine)
        self._schemas: dict[str, Schema] = {}
        self._closed = False
        self._user_count = 0
        self._idle = asyncio.Event()

    @property
    def dialect(self) -> str:
        """Which kind it is: sqlite or postgresql."""
        return self._engine.dialect.name

    @contextlib.asynccontextmanager
    async def begin(self) -> AsyncIterator[Connection]:
        """Give a connection whose transaction may write; it is committed unless something raises.

        In SQLite it is the only one that writes, from its beginning: it cannot fail half-way
        because another wrote first.
        """
        async with self._keep_open(), transaction(self._engine, writing=True) as connection:
            yield connection
        self._check_file()  # what was committed just now may be lost with it

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[Connection]:
        """Give a connection for reading: what it reads is one state of the database."""
        async with self._keep_open(), transaction(self._engine, writing=False) as connection:
            yield connection

    async def check(self) -> None:
        """Read something. Raises ``Busy`` for a database that does not answer.

        Raises ``NewerSchemaError`` where a newer server has migrated it since this one began.
        """
        schemas = list(self._schemas.values())
        # One statement: an idle server asks every two seconds, and each costs several switches
        # between threads.
        asked: sa.Executable = sa.text(_LOOKS[self.dialect])
        if schemas:
            asked = sa.select(
                *(migrations.version_query(each).scalar_subquery() for each in schemas)
            )
        async with self.read() as connection:
            versions = (await connection.execute(asked)).one()
        for schema, version in zip(schemas, versions, strict=False):
            schema.check(version)

    async def check_version(self, connection: Connection, schema: Schema) -> None:
        """Raise ``NewerSchemaError`` where a newer server has migrated a plugin's tables.

        For what takes work in the name of all servers: it is the newer ones' then.
        """
        schema.check(await connection.scalar(migrations.version_query(schema)))

    async def migrate(self, schema: Schema) -> None:
        """Bring a plugin's tables to the version that its code knows.

        Raises ``NewerSchemaError`` for tables of a newer version, ``Busy`` for a database that
        does not answer.
        """
        async with self._keep_open(), self._first_opened():
            await self._changes.prepare()
        async with self.read() as connection:
            found = await connection.run_sync(migrations.version, schema)
        if not schema.check(found):
            self._schemas[schema.name] = schema
            return
        async with migrations.locked_file(self._lock_file), self.begin() as connection:
            if await connection.run_sync(migrations.migrate, schema):
                log.info("schema %s is at version %s", schema.name, schema.head)
        self._schemas[schema.name] = schema

    async def close(self) -> None:
        """Close every connection; who has one is waited for, and nobody is given another.

        One that came back, or was opened, after this would never be closed: its thread and its
        file would stay.
        """
        self._closed = True
        await self._changes.close()
        if self._user_count:
            self._idle.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._timeout):
                    await self._idle.wait()
        await greenlet_spawn(self._engine.dispose)

    async def serialize(self, connection: Connection, name: str) -> None:
        """Have no other transaction pass here with a name until this one, of ``begin``, ends.

        For what is counted before a row is added: in PostgreSQL two at the same moment would count
        the same rows. In SQLite only one transaction writes anyway.
        """
        if self.dialect == "postgresql":
            await connection.execute(_SERIALIZE, {"name": name})

    def now(self) -> sa.ColumnElement[float]:
        """Return an expression of Unix seconds, by the one clock of all servers of the database.

        For times that several servers compare: their own clocks may differ. In PostgreSQL it is
        that of the database when a statement arrives there, in SQLite that of the machine now.
        """
        return _POSTGRES_NOW if self.dialect == "postgresql" else sa.literal(time.time())

    # what others changed

    async def announce(self, connection: Connection, channel: str) -> None:
        """Have this transaction tell every process, once it is committed, that it changed a thing.

        ``channel`` names the thing.
        """
        await self._changes.announce(connection, channel)

    def watch(self, channel: str, changed: Callable[[], None]) -> None:
        """Have ``changed()`` called soon after any process announced a change of a thing.

        It is called once without one: what changed since the caller read is not missed.
        """
        self._changes.watch(channel, changed)

    @contextlib.asynccontextmanager
    async def _keep_open(self) -> AsyncIterator[None]:
        """Have the database stay open meanwhile. Raises ``Busy``, also where it is closed."""
        if self._closed:
            raise Busy("The database is closed")
        self._check_file()
        self._user_count += 1
        try:
            with translated_errors():
                yield
        finally:
            self._user_count -= 1
            if not self._user_count:
                self._idle.set()

    @contextlib.asynccontextmanager
    async def _first_opened(self) -> AsyncIterator[None]:
        """Open a new file of SQLite as the only one, which turns its write-ahead log on.

        Two that do so at the same moment are each other's deadlock: SQLite fails one of them at
        once, without its timeout.
        """
        if self._file is None or not self._file.is_new():
            yield
            return
        async with migrations.locked_file(self._lock_file):
            yield

    def _check_file(self) -> None:
        if self._file is not None:
            self._file.check()
