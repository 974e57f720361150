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
from mataserver_database.options import Settings
from mataserver_database.schema import NewerSchemaError, Schema

if TYPE_CHECKING:
    from mataserver import Context
    from mataserver_database.connection import Connection
    from mataserver_database.database import Database
    from mataserver_database.failures import Busy, Full, Unfit
    from mataserver_database.lifetime import DatabaseService

__all__ = [
    "Busy",
    "Connection",
    "Database",
    "Full",
    "NewerSchemaError",
    "Schema",
    "Settings",
    "Unfit",
    "finish",
    "finished",
]

_MODULES = {
    "Busy": "failures",
    "Connection": "connection",
    "Database": "database",
    "Full": "failures",
    "Unfit": "failures",
}
"""Where what brings SQLAlchemy stands."""


def __getattr__(name: str) -> object:
    """Import what brings SQLAlchemy when it is asked for: most commands have no use for it."""
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
