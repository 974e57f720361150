"""One database for the plugins that keep something: SQLite by itself, PostgreSQL by one setting.

A plugin that keeps something imports ``Database`` and ``Schema`` from here and nothing below.
"""

from __future__ import annotations

from mataserver_database.database import Busy, Database
from mataserver_database.schema import NewerSchemaError, Schema

__all__ = ["Busy", "Database", "NewerSchemaError", "Schema"]
