"""What opens a database: SQLite's file, or PostgreSQL."""

from __future__ import annotations

import logging
import sqlite3
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import event

from mataserver import MataError
from mataserver_database.answer_limit import ANSWER_SECONDS, SLACK_SECONDS, limit_pool
from mataserver_database.connection import WRITING

if TYPE_CHECKING:
    from pathlib import Path


def sqlite(path: Path, timeout: float) -> sa.Engine:
    """Return an engine on a file: write-ahead log, foreign keys, transactions that begin early."""
    # On the level "debug" the driver logs every statement's values: hashes and secrets among them.
    logging.getLogger("aiosqlite").setLevel(logging.INFO)
    engine = sa.create_engine(
        f"sqlite+aiosqlite:///{path}", connect_args={"timeout": timeout}, hide_parameters=True
    )

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # the driver must not begin transactions by itself
        cursor = connection.cursor()
        # FULL: a power failure would take back what was answered, as that a key is revoked.
        for pragma in ("journal_mode=WAL", "foreign_keys=ON", "synchronous=FULL"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begun(connection: sa.Connection) -> None:
        writing = connection.get_execution_options().get(WRITING, False)
        opening = "BEGIN IMMEDIATE" if writing else "BEGIN"
        adapted: Any = connection.connection.dbapi_connection
        # The driver is asked itself: its thread gets this once, where a cursor of SQLAlchemy's
        # takes three turns, a sixth of the CPU of a short transaction.
        try:
            adapted.run_async(lambda driver: driver.execute(opening))
        except ValueError:  # its connection is closed: this way the pool learns of it
            connection.exec_driver_sql(opening)
        except sqlite3.Error as error:
            raise sa.exc.OperationalError(opening, None, error) from error

    return engine


def postgres(url: str, timeout: float, pool: int) -> sa.Engine:
    """Return an engine on PostgreSQL. Raises ``MataError`` without the driver."""
    parsed = sa.make_url(url).set(drivername="postgresql+asyncpg")
    seconds = timeout + SLACK_SECONDS
    try:
        engine = sa.create_engine(
            parsed,
            pool_size=pool,
            pool_timeout=timeout,
            pool_pre_ping=True,
            hide_parameters=True,
            execution_options={ANSWER_SECONDS: seconds},
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
    limit_pool(engine, seconds)
    return engine
