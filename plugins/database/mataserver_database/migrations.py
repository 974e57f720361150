"""Brings a database to a schema's newest version, one process at a time.

Alembic is imported only when a version differs: it takes longer than all the rest of a start.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import logging
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from mataserver_database.schema import Schema

_INTERVAL = 0.1
"""Seconds between two looks whether another still migrates."""


def has_table(connection: sa.Connection, name: str) -> bool:
    """Whether a table is there.

    SQLAlchemy asks SQLite in a way that takes several times as long, at each start for each plugin.
    """
    if connection.dialect.name == "sqlite":
        asked = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
        return connection.exec_driver_sql(asked, (name,)).first() is not None
    return sa.inspect(connection).has_table(name)


def version(connection: sa.Connection, schema: Schema) -> str | None:
    """Return the version of a schema in the database, None before its first migration."""
    if not has_table(connection, schema.table):
        return None
    found: str | None = connection.execute(version_query(schema)).scalar()
    return found


def version_query(schema: Schema) -> sa.Select[Any]:
    """Return what reads the version of a schema that has been migrated."""
    table = sa.table(schema.table, sa.column("version_num"))
    return sa.select(table.c.version_num)


def migrate(connection: sa.Connection, schema: Schema) -> bool:
    """Migrate under a lock that other processes respect; return whether there was anything to do.

    The connection is in a transaction: a migration that fails, or whose process is killed, leaves
    nothing. Raises ``NewerSchemaError``.
    """
    _lock(connection, schema)
    if not schema.check(version(connection, schema)):
        return False
    _upgrade(connection, schema)
    return True


@contextlib.asynccontextmanager
async def locked_file(path: Path | None) -> AsyncIterator[None]:
    """Hold the lock of a database that has none of its own, however long another migrates.

    SQLite's transaction would do, but for who waits for it: that is an error after a while.
    """
    if path is None:
        yield
        return
    with path.open("ab") as file:
        while not _take(file.fileno()):  # noqa: ASYNC110 - a lock of another process tells nobody
            await asyncio.sleep(_INTERVAL)
        yield


def _take(descriptor: int) -> bool:
    """Lock a file until it is closed; return False while another process has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _upgrade(connection: sa.Connection, schema: Schema) -> None:
    # Its import tells of each of its parts, and it of each step; the server logs the version.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory(str(schema.folder), version_locations=[str(schema.folder)])

    def steps(current: Any, _context: Any) -> Any:
        return scripts._upgrade_revs("head", current)  # noqa: SLF001 - as ``alembic upgrade`` does

    with EnvironmentContext(Config(), scripts, fn=steps) as environment:
        environment.configure(
            connection=connection,
            version_table=schema.table,
            render_as_batch=connection.dialect.name == "sqlite",
            transactional_ddl=False,  # the caller's transaction holds the whole of it
        )
        environment.run_migrations()


def _lock(connection: sa.Connection, schema: Schema) -> None:
    """Keep others from migrating until the transaction ends; SQLite's is the only one anyway."""
    if connection.dialect.name == "postgresql":
        number = int.from_bytes(hashlib.sha256(schema.table.encode()).digest()[:7])
        for limit in ("statement_timeout", "lock_timeout"):  # a large table takes its time
            connection.execute(sa.text(f"SET LOCAL {limit} = 0"))
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:number)"), {"number": number})
