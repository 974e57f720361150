"""What opens a database: SQLite's file, or PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
import ssl
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import sqlalchemy as sa
from sqlalchemy import event

from mataserver import MataError
from mataserver_database.answer_limit import ANSWER_SECONDS, SLACK_SECONDS, limit_pool
from mataserver_database.connection import WRITING

_ARGUMENTS = frozenset({"host", "port", "ssl", "prepared_statement_cache_size", "command_timeout"})
"""Parameters of a URL that SQLAlchemy reads, or hands on; all others are PostgreSQL's clients'."""
_UNUSED = frozenset(
    {
        *("timeout", "connect_timeout", "tcp_user_timeout", "channel_binding", "gssencmode"),
        *("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count"),
    }
)
"""Parameters that hosters give and the driver has no use for: the setting ``timeout`` counts."""
_REQUIRED = "require"
"""A value of theirs that asks for protection: it is refused, since the driver cannot give it."""
_SYSTEM, _FULL = "system", "verify-full"
"""Values of ``sslrootcert`` and ``sslmode``: the system's certificates, of the very host."""
_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
_OWN_FILES = {"sslcert": "postgresql.crt", "sslkey": "postgresql.key", "sslcrl": "root.crl"}
_VERSIONS = {
    "ssl_min_protocol_version": "minimum_version",
    "ssl_max_protocol_version": "maximum_version",
}
_TLS = {each.name.replace("_", "."): each for each in ssl.TLSVersion if each.name[:3] == "TLS"}
_NO_URL = "plugins.database.url: not a URL that PostgreSQL's clients read"


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
    address, dsn = _parts(url)
    seconds = timeout + SLACK_SECONDS
    try:
        engine = sa.create_engine(
            address,
            pool_size=pool,
            pool_timeout=timeout,
            pool_pre_ping=True,
            hide_parameters=True,
            execution_options={ANSWER_SECONDS: seconds},
            connect_args={
                "timeout": timeout,
                "dsn": dsn,
                "async_creator_fn": partial(_connect, seconds=timeout),
            },
        )
    except ModuleNotFoundError:
        raise MataError(
            "plugins.database.url needs a package: pip install 'mataserver-database[postgres]'"
        ) from None
    limit_pool(engine, seconds)
    return engine


def _parts(url: str) -> tuple[sa.URL, str]:
    """Return what SQLAlchemy is to read of a URL, and what the driver is."""
    rest = url.partition("://")[2]
    place = ""
    try:
        parsed = sa.make_url(f"postgresql+asyncpg://{rest}")
    except (sa.exc.ArgumentError, ValueError):
        parsed = None
    if parsed is None or {",", "%"} & set(parsed.host or ""):  # several hosts, or a socket's folder
        place, _, query = rest.partition("?")
        parsed = sa.make_url(f"postgresql+asyncpg://?{query}")
    others = {name: value for name, value in parsed.query.items() if name not in _ARGUMENTS}
    used = {
        name: value for name, value in others.items() if name not in _UNUSED or value == _REQUIRED
    }
    dsn = f"postgresql://{place}?{urlencode(used, doseq=True)}"
    return parsed.difference_update_query(others), dsn


async def _connect(*, seconds: float, dsn: str, **arguments: Any) -> Any:
    """Return a new connection whose statements, and waits for locks, end after so many seconds.

    The limits are not among what a connection begins with: PgBouncer would refuse it.
    """
    import asyncpg
    from asyncpg import exceptions

    wrong = (
        exceptions.ClientConfigurationError,
        exceptions.UndefinedObjectError,  # a parameter that the database does not know
        exceptions.InvalidParameterValueError,
        exceptions.PostgresSyntaxError,  # options that are none
    )
    try:
        _check_required(dsn)
        if trust := _system_trust(dsn, arguments.get("ssl")):
            arguments["ssl"] = trust
        connection = await asyncpg.connect(dsn, **arguments)
    except wrong as error:
        raise MataError(f"plugins.database.url: {error}") from None
    except OSError as error:  # also for a certificate that is not trusted, a ValueError as well
        if isinstance(error, (FileNotFoundError, PermissionError)) and (
            file := _unreadable_file(dsn)
        ):
            error.filename = file
        raise
    except ValueError:  # which may name a part of a password
        raise MataError(_NO_URL) from None
    limit = round(seconds * 1e3)
    try:
        async with asyncio.timeout(seconds):
            await connection.execute(f"SET lock_timeout = {limit}; SET statement_timeout = {limit}")
    except BaseException:
        connection.terminate()
        raise
    return connection


def _check_required(dsn: str) -> None:
    """Raise ``MataError`` for protection that a URL requires and the driver does not have."""
    for name, value in parse_qsl(urlsplit(dsn).query):
        if name in _UNUSED and value == _REQUIRED:
            raise MataError(
                f"plugins.database.url: {name}={value}: the driver cannot give it; leave it out, "
                f"and let sslmode={_FULL} check the server's certificate"
            )


def _system_trust(dsn: str, mode: str | None) -> ssl.SSLContext | None:
    """Return TLS by the system's certificates if they are wanted: the driver seeks such a file.

    All else of it is as the driver's. ``mode`` is SQLAlchemy's parameter ``ssl``. Raises
    ``MataError`` for one that would not check the host's name, as PostgreSQL's clients do.
    """
    given = _tls_parameters(dsn)
    if given.get("sslrootcert") != _SYSTEM:
        return None
    if (mode or given.get("sslmode", _FULL)) != _FULL:
        raise MataError(f"plugins.database.url: sslrootcert={_SYSTEM} needs sslmode={_FULL}")
    context = ssl.create_default_context()
    context.set_alpn_protocols(["postgresql"])
    for name, attribute in _VERSIONS.items():
        if version := given.get(name):
            if version not in _TLS:
                raise MataError(f"plugins.database.url: {name}: no version of TLS: {version}")
            setattr(context, attribute, _TLS[version])
    if revoked := given.get("sslcrl"):
        context.load_verify_locations(revoked)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
    if own := given.get("sslcert"):
        # Without a password OpenSSL would ask for one on the terminal.
        context.load_cert_chain(own, given.get("sslkey"), lambda: given.get("sslpassword", ""))
    return context


def _tls_parameters(dsn: str) -> dict[str, str]:
    """Return a URL's parameters over those of the environment and of the folder of clients."""
    found = {}
    with contextlib.suppress(RuntimeError):  # there may be no home
        folder = Path("~/.postgresql").expanduser()
        found = {
            name: str(folder / file)
            for name, file in _OWN_FILES.items()
            if os.access(folder / file, os.F_OK)  # False also where the home is not readable
        }
    for name in ("sslmode", *_FILES, *_VERSIONS):
        if value := os.environ.get("PG" + name.replace("_", "").upper()):
            found[name] = value
    return found | dict(parse_qsl(urlsplit(dsn).query))


def _unreadable_file(dsn: str) -> str | None:
    """Return the first file of a URL's parameters that cannot be read: no error of TLS names it."""
    given = _tls_parameters(dsn)
    files = (given[each] for each in _FILES if given.get(each, _SYSTEM) != _SYSTEM)
    return next((file for file in files if not os.access(file, os.R_OK)), None)
