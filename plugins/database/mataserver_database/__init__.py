"""One database for the plugins that keep something: SQLite by itself, PostgreSQL by one setting.

A plugin that keeps something imports ``Database`` and ``Schema`` from here and nothing below. Its
service has ``requires = ("database",)`` and uses ``ctx.peer("database").database`` once it is
entered.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from mataserver import hookimpl
from mataserver_database.finishing import finish, finished
from mataserver_database.held_folders import boot, hold, is_left
from mataserver_database.lease_watch import LeaseWatch
from mataserver_database.options import Settings
from mataserver_database.schema import NewerSchemaError, Schema

if TYPE_CHECKING:
    from mataserver import Context
    from mataserver_database.connection import Connection
    from mataserver_database.cursors import Cursors
    from mataserver_database.database import Database
    from mataserver_database.failures import Busy, Full, Unfit
    from mataserver_database.lifetime import DatabaseService
    from mataserver_database.page_requests import (
        CURSOR,
        EVERYTHING,
        PARAMETERS,
        Page,
        cursor_of,
        page_of,
    )
    from mataserver_database.paging import Rows, Sorting, by_code_point
    from mataserver_database.refusals import Refusal, Refusals

__all__ = [
    "CURSOR",
    "EVERYTHING",
    "PARAMETERS",
    "Busy",
    "Connection",
    "Cursors",
    "Database",
    "Full",
    "LeaseWatch",
    "NewerSchemaError",
    "Page",
    "Refusal",
    "Refusals",
    "Rows",
    "Schema",
    "Settings",
    "Sorting",
    "Unfit",
    "boot",
    "by_code_point",
    "cursor_of",
    "finish",
    "finished",
    "hold",
    "is_left",
    "page_of",
]

_MODULES = {
    "Busy": "failures",
    "CURSOR": "page_requests",
    "Connection": "connection",
    "Cursors": "cursors",
    "Database": "database",
    "EVERYTHING": "page_requests",
    "Full": "failures",
    "PARAMETERS": "page_requests",
    "Page": "page_requests",
    "Refusal": "refusals",
    "Refusals": "refusals",
    "Rows": "paging",
    "Sorting": "paging",
    "Unfit": "failures",
    "by_code_point": "paging",
    "cursor_of": "page_requests",
    "page_of": "page_requests",
}
"""Where what brings SQLAlchemy, or the HTTP server, stands."""


def __getattr__(name: str) -> object:
    """Import the rest when it is asked for: most commands have no use for it."""
    if name in _MODULES:
        return getattr(import_module(f"mataserver_database.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'mataserver_database' has no attribute {name!r}")


@hookimpl
def settings() -> type[Settings]:
    """Return the type of ``plugins.database``."""
    return Settings


@hookimpl
def service(ctx: Context) -> DatabaseService:
    """Return the database, for other plugins."""
    from mataserver_database.lifetime import DatabaseService

    return DatabaseService(ctx)
