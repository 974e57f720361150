"""How the database fails: what is its own trouble, and what a statement breaks."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING

import sqlalchemy as sa

from mataserver import InvalidParams, OutOfMemory, Unavailable, shortage_error
from mataserver_database.trouble_log import TROUBLES

if TYPE_CHECKING:
    from collections.abc import Iterator

_CALLER_ERRORS = (
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
_VALUE_ERRORS = ("22", "54")
"""Classes of PostgreSQL's states: values that it does not hold, and such as are too long for it."""
_OPERATOR_ERRORS = frozenset({"42P01", "42501", "3F000"})
"""PostgreSQL's states for a table or schema that is not there and for what our user may not do.

Migrations made the tables and wrote to them: somebody restores a copy, or has taken rights away.
"""
BUSY = "The database does not answer now"
_UNFIT = "A value is none that the database holds: a number out of range, text too long or no text"


class Busy(Unavailable):
    """503: the database does not answer now, or another holds what is wanted for too long."""


class Full(Busy):
    """507: the disk of the database has no room for what is written. What was there stays."""

    status = 507


class Exhausted(Busy):
    """507: there is no memory for a statement."""

    status = 507


class Unfit(InvalidParams):
    """422: a value is none that the database holds."""


@contextlib.contextmanager
def translated_errors() -> Iterator[None]:
    """Raise what is the database's own trouble as ``Busy``; what a statement breaks stays.

    A table that is gone for a while is its trouble, as it is SQLite's.

    What is wrong with a value is ``Unfit``: a number out of range, characters that are none. The
    driver of SQLite tells it by Python's own errors, that of PostgreSQL in ways that SQLAlchemy has
    no name for.
    """
    try:
        with translated_shortages():
            yield
    except _CALLER_ERRORS as error:
        if getattr(error.orig, "sqlstate", None) not in _OPERATOR_ERRORS:
            raise
        TROUBLES.tell(f"the database failed: {error.orig}")
        raise Busy(BUSY, retry_after=1) from error
    except (OverflowError, UnicodeEncodeError) as error:
        raise Unfit(_UNFIT) from error
    except sa.exc.TimeoutError as error:
        raise Busy(BUSY, retry_after=1) from error
    except sa.exc.DBAPIError as error:
        if isinstance(error, sa.exc.DataError) or _is_of_values(error.orig):
            raise Unfit(_UNFIT) from error
        TROUBLES.tell(f"the database failed: {error.orig}")
        if _is_full(error.orig):
            raise Full("The disk of the database is full") from error
        raise Busy(BUSY, retry_after=1) from error
    except OSError as error:
        TROUBLES.tell(f"the database cannot be reached: {_text_of(error)}")
        raise Busy(BUSY, retry_after=1) from error


@contextlib.contextmanager
def translated_shortages() -> Iterator[None]:
    """Raise a lack of memory or threads as ``Busy``, as for others: the next time may succeed."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        shortage = shortage_error(error)
        if shortage is None:
            raise
        with contextlib.suppress(MemoryError):  # for the log, too, there may be none
            TROUBLES.tell(f"the database failed: {shortage.detail}")
        kind = Exhausted if isinstance(shortage, OutOfMemory) else Busy
        raise kind(shortage.detail, retry_after=1) from error


def reason_of(error: Busy) -> str:
    """Return what the driver or the system said, for who runs the server."""
    cause = error.__cause__
    return _text_of(getattr(cause, "orig", cause))


def _text_of(error: object) -> str:
    """Return what an error says; that of a time that is over says nothing."""
    return str(error) or "no answer in time"


def _is_of_values(error: object) -> bool:
    """Whether a driver's error is one of a value that it was given."""
    cause = getattr(error, "__cause__", None)
    if type(cause).__name__ == "DataError":  # what the driver refuses before it sends it
        return True
    return str(getattr(error, "sqlstate", None) or "").startswith(_VALUE_ERRORS)


def _is_full(error: object) -> bool:
    """Whether a driver's error is one of a full disk.

    SQLite's write-ahead log tells it as a failed write, where it does not grow in its own pages.
    """
    if getattr(error, "sqlstate", None) == _DISK_FULL:
        return True
    return getattr(error, "sqlite_errorcode", None) in _SQLITE_FULL
