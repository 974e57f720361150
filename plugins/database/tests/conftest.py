"""Fixtures: a database of each kind, empty for each test."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest

from mataserver_database import Database, Schema
from mataserver_database.testing import new_database, running_postgres

HERE = Path(__file__).parent
_NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
def postgres():
    """The URL of a PostgreSQL server."""
    with running_postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
async def place(request, tmp_path):
    """Arguments of a new database: two ``Database(*place)`` are two processes' view of it."""
    if request.param == "sqlite":
        return (tmp_path,)
    server = request.getfixturevalue("postgres")
    return (tmp_path, await new_database(server, f"test_{next(_NUMBERS)}"))


@pytest.fixture
async def database(place):
    """A database."""
    made = Database(*place)
    yield made
    await made.close()


@pytest.fixture
def schema(monkeypatch):
    """The schema of a guest with two migrations."""
    monkeypatch.syspath_prepend(str(HERE))
    sys.modules.pop("guest_tables", None)
    return Schema("guest", "guest_tables")
