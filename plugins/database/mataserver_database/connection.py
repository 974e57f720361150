"""A connection whose statements are awaited, and the transaction that it is in.

It is SQLAlchemy's own, called in a greenlet that waits for the driver. ``sqlalchemy.ext.asyncio``
would give the like, and imports the whole ORM with it: a third of what a database adds to a start.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple, overload

from sqlalchemy.util import greenlet_spawn

from mataserver_database.answer_limit import ANSWER_SECONDS, answer_limit
from mataserver_database.finishing import finish

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import sqlalchemy as sa
    from sqlalchemy.sql.selectable import TypedReturnsRows

T = TypeVar("T")
Columns = TypeVarTuple("Columns")

WRITING = "mataserver_writing"
"""The option of a connection whose transaction may write."""


class Connection:
    """A connection of ``Database``: its statements go to their end, also when a waiter leaves.

    Their arguments and results are those of ``sqlalchemy.Connection``; results are whole. A
    PostgreSQL that does not answer in time loses the connection.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._opened: sa.Connection | None = None
        self._driver: Any = None
        self._limit: float | None = engine.get_execution_options().get(ANSWER_SECONDS)

    @property
    def plain(self) -> sa.Connection:
        """SQLAlchemy's connection, whose calls wait. Raises ``RuntimeError`` before ``open``."""
        if self._opened is None:
            raise RuntimeError("The connection is not open")
        return self._opened

    @overload
    async def execute(
        self, statement: TypedReturnsRows[*Columns], values: Any = None
    ) -> sa.CursorResult[*Columns]: ...

    @overload
    async def execute(
        self, statement: sa.Executable, values: Any = None
    ) -> sa.CursorResult[*tuple[Any, ...]]: ...

    async def execute(self, statement: Any, values: Any = None) -> Any:
        """Execute a statement with values: a mapping, or a list of them for as many rows."""
        return await self.call(self.plain.execute, statement, values)

    @overload
    async def scalar(self, statement: TypedReturnsRows[T], values: Any = None) -> T | None: ...

    @overload
    async def scalar(self, statement: sa.Executable, values: Any = None) -> Any: ...

    async def scalar(self, statement: Any, values: Any = None) -> Any:
        """Execute a statement; return the first column of the first row, None without a row."""
        return await self.call(self.plain.scalar, statement, values)

    @overload
    async def scalars(
        self, statement: TypedReturnsRows[T], values: Any = None
    ) -> sa.ScalarResult[T]: ...

    @overload
    async def scalars(
        self, statement: sa.Executable, values: Any = None
    ) -> sa.ScalarResult[Any]: ...

    async def scalars(self, statement: Any, values: Any = None) -> Any:
        """Execute a statement; return the first column of every row."""
        return await self.call(self.plain.scalars, statement, values)

    async def exec_driver_sql(self, statement: str, values: Any = None) -> sa.CursorResult[Any]:
        """Execute a statement as the driver takes it."""
        return await self.call(self.plain.exec_driver_sql, statement, values)

    async def run_sync(self, function: Callable[..., T], *values: Any) -> T:
        """Call a blocking function with SQLAlchemy's connection and values.

        It may execute many statements, and take as long as they do.
        """
        return await finish(greenlet_spawn(function, self.plain, *values))

    async def open(self) -> None:
        """Take a connection of the engine's."""
        await finish(greenlet_spawn(self._open))

    async def close(self) -> None:
        """Give it back, if there is one; what is not committed is rolled back."""
        if self._opened is not None:
            await self.call(self._opened.close)

    async def call(self, function: Callable[..., T], *values: Any) -> T:
        """Call what waits for one answer of the database, a method of ``plain`` say."""
        with answer_limit(self._driver, self._limit):
            return await finish(greenlet_spawn(function, *values))

    def _open(self) -> None:
        self._opened = self._engine.connect()  # kept at once: who waits may be cancelled
        self._driver = self._opened.connection.driver_connection


@contextlib.asynccontextmanager
async def connected(engine: sa.Engine) -> AsyncIterator[Connection]:
    """Give a connection, whose first statement begins a transaction."""
    connection = Connection(engine)
    try:
        await connection.open()
        yield connection
    finally:
        await connection.close()


@contextlib.asynccontextmanager
async def transaction(engine: sa.Engine, *, writing: bool) -> AsyncIterator[Connection]:
    """Give a connection in a transaction; it is committed unless something raises.

    One that does not write reads one state of the database.
    """
    async with connected(engine) as connection:
        if writing:
            connection.plain.execution_options(**{WRITING: True})
        elif engine.dialect.name == "postgresql":
            # Else each statement reads the state that there is when it begins.
            connection.plain.execution_options(isolation_level="REPEATABLE READ")
        await connection.call(connection.plain.begin)
        yield connection
        await connection.call(connection.plain.commit)
