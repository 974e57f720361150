"""Word of what other processes changed: PostgreSQL's notifications, SQLite's count of writes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from mataserver import MataError
from mataserver_database.answer_limit import ANSWER_SECONDS, answer_limit
from mataserver_database.connection import connected, transaction
from mataserver_database.failures import translated_shortages
from mataserver_database.finishing import finish
from mataserver_database.migrations import has_table
from mataserver_database.trouble_log import TROUBLES

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver_database.connection import Connection

POLL_SECONDS = 0.25
"""How soon a change that another process made in SQLite is seen."""
RETRY_SECONDS = 1.0
HEARTBEAT_SECONDS = 5.0
"""How often a PostgreSQL that has notified of nothing is asked whether it is there.

A connection that a firewall has forgotten, or whose server has lost its power, is silent as well.
"""
_CHANNEL = "mataserver"
"""The one name that PostgreSQL's notifications go by; what they say is the thing that changed."""
_NOTIFY = sa.text(f"SELECT pg_notify('{_CHANNEL}', :channel)")
_TABLE = "mataserver_changes"
"""Where SQLite counts what was announced: of itself it tells that something was written alone."""
_COLUMNS: tuple[sa.ColumnClause[Any], ...] = sa.column("channel"), sa.column("announced")
_COUNTS = sa.select(*_COLUMNS).select_from(sa.table(_TABLE, *_COLUMNS))
_MAKE = sa.text(
    f"CREATE TABLE IF NOT EXISTS {_TABLE} (channel TEXT PRIMARY KEY, announced INTEGER NOT NULL)"
)
_COUNT = sa.text(
    f"INSERT INTO {_TABLE} VALUES (:channel, 1) "  # noqa: S608 - the name is above
    "ON CONFLICT (channel) DO UPDATE SET announced = announced + 1"
)
_VERSION = "PRAGMA data_version"
_HEARTBEAT = "SELECT 1"

log = logging.getLogger("mataserver.plugin.database")


class ChangeNotifier:
    """Notifies this process's watchers, until it is closed."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._watchers: dict[str, list[Callable[[], None]]] = {}
        self._prepared = False
        self._listening: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    async def prepare(self) -> None:
        """Make SQLite's table of announcements, where there is none yet."""
        if self._notifies or self._prepared:
            return
        async with transaction(self._engine, writing=False) as connection:
            there = await connection.run_sync(has_table, _TABLE)
        if not there:
            async with transaction(self._engine, writing=True) as connection:
                await connection.execute(_MAKE)
        self._prepared = True

    async def announce(self, connection: Connection, channel: str) -> None:
        """Notify every process of a change, once the transaction is committed."""
        await connection.execute(_NOTIFY if self._notifies else _COUNT, {"channel": channel})

    async def close(self) -> None:
        """Stop listening."""
        self._closing.set()
        if self._listening is not None:
            await self._listening

    def watch(self, channel: str, changed: Callable[[], None]) -> None:
        """Have ``changed()`` called soon after any process announced a change of a thing.

        It is called once without one: what changed since the caller read is not missed.
        """
        self._watchers.setdefault(channel, []).append(changed)
        loop = asyncio.get_running_loop()
        if self._listening is None:
            self._listening = loop.create_task(self._listen_until_closed())
        else:
            loop.call_soon(self._notify, channel)

    @property
    def _notifies(self) -> bool:
        """Whether the database itself sends notifications."""
        return self._engine.dialect.name == "postgresql"

    @property
    def _driver_errors(self) -> tuple[type[Exception], ...]:
        """What the driver itself raises; that of PostgreSQL is asked past SQLAlchemy's names."""
        known: Any = self._engine.dialect.loaded_dbapi
        if not self._notifies:
            return (known.Error,)
        return known.Error, known.asyncpg.PostgresError, known.asyncpg.InterfaceError

    async def _listen_until_closed(self) -> None:
        """Listen until the end; whenever that begins, anything may have changed."""
        failures: tuple[type[Exception], ...] = (
            OSError,
            sa.exc.SQLAlchemyError,
            MataError,
            *self._driver_errors,
        )
        while not self._closing.is_set():
            try:
                with translated_shortages():  # a connection takes a thread
                    await (self._listen() if self._notifies else self._poll())
            except failures as error:
                with contextlib.suppress(MemoryError):
                    TROUBLES.tell(
                        f"notifications of other processes are interrupted: {type(error).__name__}"
                    )
                await self._pause(RETRY_SECONDS)

    async def _poll(self) -> None:
        """Look what was announced, when SQLite's other connections have written anything."""
        async with connected(self._engine) as connection:
            before, version = await self._counts(connection), None
            self._notify_all()
            while not self._closing.is_set():
                found = await finish(_data_version(connection))
                counts = before if found == version else await self._counts(connection)
                for channel in self._watchers:
                    if counts.get(channel) != before.get(channel):
                        self._notify(channel)
                before, version = counts, found
                await self._pause(POLL_SECONDS)

    async def _counts(self, connection: Connection) -> dict[str, int]:
        """Return how often each thing was announced."""
        rows = await connection.execute(_COUNTS)
        await connection.call(connection.plain.rollback)
        return {row.channel: row.announced for row in rows}

    async def _listen(self) -> None:
        """Listen for PostgreSQL's notifications, until the connection is lost."""
        lost = asyncio.Event()
        async with connected(self._engine) as connection:
            driver: Any = connection.plain.connection.driver_connection
            driver.add_termination_listener(lambda _connection: lost.set())
            limit = self._engine.get_execution_options().get(ANSWER_SECONDS)
            waits = [asyncio.ensure_future(event.wait()) for event in (lost, self._closing)]
            try:
                with answer_limit(driver, limit):
                    await driver.add_listener(_CHANNEL, self._on_notification)
                self._notify_all()
                while not (lost.is_set() or self._closing.is_set()):
                    with answer_limit(driver, limit):
                        await driver.execute(_HEARTBEAT)
                    await asyncio.wait(
                        waits, timeout=HEARTBEAT_SECONDS, return_when=asyncio.FIRST_COMPLETED
                    )
                interrupted = lost.is_set()  # before it is ended from here
            finally:
                for wait in waits:
                    wait.cancel()
                await connection.call(
                    connection.plain.invalidate
                )  # one that listens must not serve others
        if interrupted:
            raise ConnectionResetError

    async def _pause(self, seconds: float) -> None:
        """Wait, but not for longer than the database is open.

        The tasks here are never cancelled: a driver that is cancelled in mid-statement leaves its
        thread or its connection behind.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()

    def _notify_all(self) -> None:
        for channel in self._watchers:
            self._notify(channel)

    def _on_notification(self, _connection: object, _pid: int, _name: str, channel: str) -> None:
        self._notify(channel)

    def _notify(self, channel: str) -> None:
        for changed in self._watchers.get(channel, ()):
            try:
                changed()
            except Exception:
                log.exception("a listener of the channel %s failed", channel)


async def _data_version(connection: Connection) -> int:
    """Return what is another number once another connection has written.

    It stands still within a transaction, so that it is asked without one. The driver is asked
    itself: through SQLAlchemy it takes twice as long, four times a second, also while nobody asks.
    """
    driver: Any = connection.plain.connection.driver_connection
    try:
        [(version,)] = await driver.execute_fetchall(_VERSION)
    except ValueError as error:  # how the driver tells that its connection is closed
        raise ConnectionResetError(str(error)) from error
    return int(version)
