"""Word of what other processes changed: PostgreSQL's notifications, SQLite's count of writes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from mataserver_database.connection import connected

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mataserver_database.connection import Connection

POLL_SECONDS = 0.25
"""How soon a change that another process made in SQLite is seen."""
RETRY_SECONDS = 1.0
_CHANNEL = "mataserver"
"""The one name that PostgreSQL's notifications go by; what they say is the thing that changed."""

log = logging.getLogger("mataserver.plugin.database")


class Changes:
    """Tells this process's watchers, until it is closed."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._watchers: dict[str, list[Callable[[], None]]] = {}
        self._listening: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    async def announce(self, connection: Connection, channel: str) -> None:
        """Have a transaction tell every process of a change once it is committed."""
        if self._engine.dialect.name == "postgresql":
            given = {"name": _CHANNEL, "channel": channel}
            await connection.execute(sa.text("SELECT pg_notify(:name, :channel)"), given)

    async def close(self) -> None:
        """Listen no more."""
        self._closing.set()
        if self._listening is not None:
            await self._listening

    def watch(self, channel: str, changed: Callable[[], None]) -> None:
        """Have ``changed()`` called soon after any process announced a change of a thing.

        It may be called without a change: SQLite tells that something was written, not what.
        """
        self._watchers.setdefault(channel, []).append(changed)
        if self._listening is None:
            postgres = self._engine.dialect.name == "postgresql"
            listen = self._listen if postgres else self._poll
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
        async with connected(self._engine) as connection:
            before: int | None = None
            while not self._closing.is_set():
                now = await connection.scalar(sa.text("PRAGMA data_version"))
                await connection.call(
                    connection.plain.rollback
                )  # the count stands still within a transaction
                if before not in {None, now}:
                    self._tell_all()
                before = now
                await self._pause(POLL_SECONDS)

    async def _listen(self) -> None:
        """Have PostgreSQL tell what was announced, until the connection is lost."""
        lost = asyncio.Event()
        async with connected(self._engine) as connection:
            driver: Any = connection.plain.connection.driver_connection
            driver.add_termination_listener(lambda _connection: lost.set())
            await driver.add_listener(_CHANNEL, self._heard)
            waits = [asyncio.ensure_future(event.wait()) for event in (lost, self._closing)]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
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
