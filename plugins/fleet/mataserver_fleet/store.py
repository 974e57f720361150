"""The fleet's tables: reads, and changes that every process is notified of."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from typing import TYPE_CHECKING, Any

import msgspec
import sqlalchemy as sa

from mataserver import Conflict, NotFound
from mataserver_fleet.tables import CHANNEL, FACTS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from contextlib import AbstractAsyncContextManager

    from mataserver_database import Connection, Database
    from mataserver_fleet.pages import Tags

_CONFLICT_DETAIL = "Somebody else does the same just now: try again"
_MAX_ID = 2**31 - 1


class StaleError(Conflict):
    """412: the resource was changed since its ``If-Match`` was read."""

    status = 412


class Store:
    """The database of the fleet. ``clock`` gives Unix seconds.

    ``followers`` are awaited after each change that was made here: it is in force when its client
    is answered. They raise nothing.
    """

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self.database = database
        self.clock = clock
        self.after_change: list[Callable[[], Awaitable[None]]] = []

    def read(self) -> AbstractAsyncContextManager[Connection]:
        """Give a connection whose readings are of one moment."""
        return self.database.read()

    @contextlib.asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Store]:
        """Give a store all of whose readings are of one moment, for what is made of several.

        A thing that is shown with a tag has what had that tag: no more, no less.
        """
        async with self.read() as connection:
            yield _Snapshot(self, connection)

    @contextlib.asynccontextmanager
    async def change(self, taken: str = _CONFLICT_DETAIL) -> AsyncIterator[Connection]:
        """Give a connection that writes; every process is notified after the commit.

        What breaks a table's rule is a ``Conflict`` whose sentence is ``taken``.
        """
        try:
            async with self.database.begin() as connection:
                yield connection
                await self.bump_version(connection)
        except sa.exc.IntegrityError:
            raise Conflict(taken) from None
        for callback in self.after_change:
            await callback()

    async def hold(self, connection: Connection, what: str) -> None:
        """Have a transaction be the only one of its kind until it ends.

        For what is looked at before it is changed, and is not in the row that is locked: in
        PostgreSQL two at the same moment would not see each other's. It comes before any other
        lock, so that no two wait for one another.
        """
        await self.database.serialize(connection, f"fleet {what}")

    async def bump_version(self, connection: Connection) -> None:
        """Have a transaction count as a change: the version is another one, and announced."""
        fresh = str(uuid.uuid4())
        done = await connection.execute(
            sa.update(FACTS).where(FACTS.c.name == "version").values(value=fresh)
        )
        if not done.rowcount:
            await connection.execute(sa.insert(FACTS).values(name="version", value=fresh, until=0))
        await self.database.announce(connection, CHANNEL)

    async def version(self) -> str | None:
        """Return what is another text after each change; None before the first."""
        async with self.read() as connection:
            return await self.version_of(connection)

    async def version_of(self, connection: Connection) -> str | None:
        """Return the version that a connection sees."""
        query = sa.select(FACTS.c.value).where(FACTS.c.name == "version")
        found: str | None = await connection.scalar(query)
        return found


class _Snapshot(Store):
    """A store that reads by one connection. One after another: a connection takes no two."""

    def __init__(self, store: Store, connection: Connection) -> None:
        super().__init__(store.database, store.clock)
        self._connection = connection

    def read(self) -> AbstractAsyncContextManager[Connection]:
        """Give the connection."""
        return contextlib.nullcontext(self._connection)


class ChangeSignal:
    """Wakes its listeners when something in the tables may have changed."""

    def __init__(self) -> None:
        self._events: set[asyncio.Event] = set()

    def notify(self) -> None:
        """Wake all listeners."""
        for event in self._events:
            event.set()

    @contextlib.contextmanager
    def listen(self) -> Iterator[asyncio.Event]:
        """Give an event that is set from now on whenever something may have changed."""
        event = asyncio.Event()
        self._events.add(event)
        try:
            yield event
        finally:
            self._events.discard(event)


async def pause(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, or for so long; the event counts once."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    event.clear()


async def find(
    connection: Connection, table: sa.Table, identity: str, what: str, *, lock: bool = False
) -> sa.RowMapping:
    """Return the row of an id or a name. Raises ``NotFound``, naming ``what``."""
    by = [table.c.name == identity]
    if identity.isascii() and identity.isdigit() and len(identity) < 11:
        by = [table.c.id == int(identity)] if int(identity) <= _MAX_ID else []
    row = None
    if by and "\0" not in identity:
        query = sa.select(table).where(*by)
        query = query.with_for_update() if lock else query
        row = (await connection.execute(query)).mappings().first()
    if row is None:
        raise NotFound(f"{what} not found: {identity[:64]}")
    return row


async def insert(connection: Connection, table: sa.Table, row: dict[str, Any]) -> int:
    """Insert a row; return its id."""
    done = await connection.execute(sa.insert(table).values(**row))
    key = done.inserted_primary_key
    assert key is not None  # noqa: S101 - for the type checker: an insertion has one
    return int(key[0])


def check_revision(row: sa.RowMapping, expected: Tags | None) -> None:
    """Raise as ``check_tag`` when a row is of no revision that is expected."""
    check_tag(str(row["revision"]), expected)


def check_tag(now: str, expected: Tags | None) -> None:
    """Raise for a thing that is tagged otherwise than is expected.

    ``StaleError`` by ``If-Match``, else ``Conflict`` by the ``version`` of a body.
    """
    if expected is None:
        return
    if expected.named is not None and now not in expected.named:
        raise StaleError(f"It was changed meanwhile: it is revision {now} now")
    if expected.version not in {None, now}:
        raise Conflict(f"version: it was changed meanwhile: its ETag says {now} now")


def text(value: object) -> str:
    """Return a value as it is kept in a column: JSON."""
    return msgspec.json.encode(value).decode()
