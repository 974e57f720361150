"""The database: transactions, readings, migrations, and word of what other processes changed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from mataserver import MataError, Unavailable
from mataserver_database import migrations
from mataserver_database.finishing import finish

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from sqlalchemy.ext.asyncio import AsyncEngine

    from mataserver_database.schema import Schema

FILE = "mataserver.db"
POLL_SECONDS = 0.25
"""How soon a change that another process made in SQLite is seen."""
RETRY_SECONDS = 1.0
_CHANNEL = "mataserver"
"""The one name that PostgreSQL's notifications go by; what they say is the thing that changed."""
_WRITING = "mataserver_writing"
_OF_THE_CALLER = (
    sa.exc.DataError,
    sa.exc.IntegrityError,
    sa.exc.NotSupportedError,
    sa.exc.ProgrammingError,
)
"""What is wrong with a statement or breaks a table's rule, and so no trouble of the database."""
_SQLITE_FULL = frozenset(
    {
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR_WRITE,
        sqlite3.SQLITE_IOERR_FSYNC,
        sqlite3.SQLITE_IOERR_TRUNCATE,
        sqlite3.SQLITE_IOERR_SHMSIZE,
    }
)
_DISK_FULL = "53100"
"""PostgreSQL's word for it."""
_BUSY = "The database does not answer now"

log = logging.getLogger("mataserver.plugin.database")


class Busy(Unavailable):
    """503: the database does not answer now, or another holds what is wanted for too long."""


class Full(Busy):
    """507: the disk of the database has no room for what is written. What was there stays."""

    status = 507


class Database:
    """One database. Its statements are SQLAlchemy's, the same for SQLite and PostgreSQL.

    Who is cancelled while a statement runs waits for its end, and what they wrote is rolled back: a
    driver that is cancelled in mid-statement keeps its transaction open, and with it others out.

    Whatever fails because the database is locked, gone or full is raised as ``Busy``, the last as
    its child ``Full``, whose sentence tells no statement and no value.
    """

    def __init__(
        self, data_dir: Path, url: str | None = None, *, timeout: float = 10.0, pool: int = 5
    ) -> None:
        self._timeout = timeout
        self._lock_file = None if url else data_dir / f"{FILE}.lock"
        self._engine = _postgres(url, timeout, pool) if url else _sqlite(data_dir / FILE, timeout)
        self._watchers: dict[str, list[Callable[[], None]]] = {}
        self._listening: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._using = 0
        self._unused = asyncio.Event()

    @property
    def dialect(self) -> str:
        """Which kind it is: sqlite or postgresql."""
        return self._engine.dialect.name

    @contextlib.asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """Give a connection whose transaction may write; it is committed unless something raises.

        In SQLite it is the only one that writes, from its beginning: it cannot fail half-way
        because another wrote first.
        """
        async with self._used(), _transaction(self._engine, writing=True) as connection:
            yield connection

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """Give a connection for reading: what it reads is one state of the database."""
        async with self._used(), _transaction(self._engine, writing=False) as connection:
            yield connection

    async def check(self) -> None:
        """Read something. Raises ``Busy`` for a database that does not answer."""
        async with self.read() as connection:
            await connection.run_sync(lambda plain: sa.inspect(plain).has_table(_CHANNEL))

    async def migrate(self, schema: Schema) -> None:
        """Bring a plugin's tables to the version that its code knows.

        Raises ``NewerSchemaError`` for tables of a newer version, ``Busy`` for a database that
        does not answer.
        """
        async with self.read() as connection:
            found = await connection.run_sync(migrations.version, schema)
        if not schema.check(found):
            return
        async with self.begin() as connection:
            if await connection.run_sync(migrations.migrate, schema, self._lock_file):
                log.info("schema %s is at version %s", schema.name, schema.head)

    async def close(self) -> None:
        """Close every connection; who has one is waited for, and nobody is given another.

        One that came back, or was opened, after this would never be closed: its thread and its
        file would stay.
        """
        self._closing.set()
        if self._listening is not None:
            await self._listening
        if self._using:
            self._unused.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._timeout):
                    await self._unused.wait()
        await self._engine.dispose()

    # what others changed

    async def announce(self, connection: AsyncConnection, channel: str) -> None:
        """Have this transaction tell every process, once it is committed, that it changed a thing.

        ``channel`` names the thing.
        """
        if self.dialect == "postgresql":
            given = {"name": _CHANNEL, "channel": channel}
            await connection.execute(sa.text("SELECT pg_notify(:name, :channel)"), given)

    def watch(self, channel: str, changed: Callable[[], None]) -> None:
        """Have ``changed()`` called soon after any process announced a change of a thing.

        It may be called without a change: SQLite tells that something was written, not what.
        """
        self._watchers.setdefault(channel, []).append(changed)
        if self._listening is None:
            listen = self._listen if self.dialect == "postgresql" else self._poll
            self._listening = asyncio.get_running_loop().create_task(self._keep(listen))

    async def _keep(self, listen: Callable[[], Awaitable[None]]) -> None:
        """Listen until the end; after a failure everything may have changed."""
        while not self._closing.is_set():
            try:
                await listen()
            except (OSError, sa.exc.SQLAlchemyError) as error:
                log.warning(
                    "notifications of other processes are interrupted: %s", type(error).__name__
                )
                await self._pause(RETRY_SECONDS)
                self._tell_all()

    async def _poll(self) -> None:
        """Look at SQLite's count of what other connections have written."""
        async with self._engine.connect() as connection:
            before: int | None = None
            while not self._closing.is_set():
                now = await connection.scalar(sa.text("PRAGMA data_version"))
                await connection.rollback()  # the count stands still within a transaction
                if before not in {None, now}:
                    self._tell_all()
                before = now
                await self._pause(POLL_SECONDS)

    async def _listen(self) -> None:
        """Have PostgreSQL tell what was announced, until the connection is lost."""
        lost = asyncio.Event()
        async with self._engine.connect() as connection:
            driver: Any = (await connection.get_raw_connection()).driver_connection
            driver.add_termination_listener(lambda _connection: lost.set())
            await driver.add_listener(_CHANNEL, self._heard)
            waits = [asyncio.ensure_future(event.wait()) for event in (lost, self._closing)]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
                await connection.invalidate()  # one that listens must not serve others
        if lost.is_set():
            raise ConnectionResetError

    async def _pause(self, seconds: float) -> None:
        """Wait, but not for longer than the database is open.

        The tasks here are never cancelled: a driver that is cancelled in mid-statement leaves its
        thread or its connection behind.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()

    def _tell_all(self) -> None:
        for channel in self._watchers:
            self._tell(channel)

    def _heard(self, _connection: object, _pid: int, _name: str, channel: str) -> None:
        self._tell(channel)

    def _tell(self, channel: str) -> None:
        for changed in self._watchers.get(channel, ()):
            try:
                changed()
            except Exception:
                log.exception("a listener of the channel %s failed", channel)

    @contextlib.asynccontextmanager
    async def _used(self) -> AsyncIterator[None]:
        """Have the database stay open meanwhile. Raises ``Busy``, also where it is closed."""
        if self._closing.is_set():
            raise Busy("The database is closed")
        self._using += 1
        try:
            async with self._failures():
                yield
        finally:
            self._using -= 1
            if not self._using:
                self._unused.set()

    @contextlib.asynccontextmanager
    async def _failures(self) -> AsyncIterator[None]:
        """Raise what is the database's own trouble as ``Busy``; what a statement breaks stays."""
        try:
            yield
        except _OF_THE_CALLER:
            raise
        except sa.exc.TimeoutError as error:
            raise Busy(_BUSY, retry_after=1) from error
        except sa.exc.DBAPIError as error:
            log.warning("the database failed: %s", error.orig)
            if _is_full(error.orig):
                raise Full("The disk of the database is full") from error
            raise Busy(_BUSY, retry_after=1) from error
        except OSError as error:
            log.warning("the database cannot be reached: %s", error)
            raise Busy(_BUSY, retry_after=1) from error


def _is_full(error: object) -> bool:
    """Whether a driver's error is one of a full disk.

    SQLite's write-ahead log tells it as a failed write, where it does not grow in its own pages.
    """
    if getattr(error, "sqlstate", None) == _DISK_FULL:
        return True
    return getattr(error, "sqlite_errorcode", None) in _SQLITE_FULL


class _Connection(AsyncConnection):
    """A connection whose statements go to their end, also when who waits for them is cancelled."""

    async def execute(self, *args: Any, **kwargs: Any) -> Any:
        """Execute a statement; ``scalar`` and ``scalars`` do it by this."""
        return await finish(super().execute(*args, **kwargs))

    async def run_sync(self, *args: Any, **kwargs: Any) -> Any:
        """Call a blocking function with the connection."""
        return await finish(super().run_sync(*args, **kwargs))


@contextlib.asynccontextmanager
async def _transaction(engine: AsyncEngine, *, writing: bool) -> AsyncIterator[AsyncConnection]:
    """Give a connection in a transaction; it is committed unless something raises."""
    connection = _Connection(engine)
    try:
        await finish(_begin(connection, writing=writing))
        yield connection
        await finish(connection.commit())
    finally:
        await finish(_close(connection))


async def _begin(connection: AsyncConnection, *, writing: bool) -> None:
    await connection.start()
    if writing:
        await connection.execution_options(**{_WRITING: True})
    await connection.begin().start()


async def _close(connection: AsyncConnection) -> None:
    """Give a connection back; what is not committed is rolled back."""
    if connection.sync_connection is not None:
        await connection.close()


def _sqlite(path: Path, timeout: float) -> AsyncEngine:
    """Return an engine on a file: write-ahead log, foreign keys, transactions that begin early.

    Nobody else may read the file, nor those that SQLite makes beside it with the same mode.
    """
    with contextlib.suppress(OSError):  # told when it is opened
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
    # On the level "debug" the driver logs every statement's values: hashes and secrets among them.
    logging.getLogger("aiosqlite").setLevel(logging.INFO)
    engine = create_async_engine(
        f"sqlite+aiosqlite:///{path}", connect_args={"timeout": timeout}, hide_parameters=True
    )

    @event.listens_for(engine.sync_engine, "connect")
    def connected(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # the driver must not begin transactions by itself
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "foreign_keys=ON", "synchronous=NORMAL"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begun(connection: sa.Connection) -> None:
        writing = connection.get_execution_options().get(_WRITING, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")

    return engine


def _postgres(url: str, timeout: float, pool: int) -> AsyncEngine:
    """Return an engine on PostgreSQL. Raises ``MataError`` without the driver."""
    parsed = sa.make_url(url).set(drivername="postgresql+asyncpg")
    try:
        return create_async_engine(
            parsed,
            pool_size=pool,
            pool_timeout=timeout,
            pool_pre_ping=True,
            hide_parameters=True,
            connect_args={
                "timeout": timeout,
                "server_settings": {
                    "lock_timeout": f"{timeout * 1e3:.0f}",
                    "statement_timeout": f"{timeout * 1e3:.0f}",
                },
            },
        )
    except ModuleNotFoundError:
        raise MataError(
            "plugins.database.url needs a package: pip install 'mataserver-database[postgres]'"
        ) from None
