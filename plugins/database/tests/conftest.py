"""Fixtures: a database of each kind, empty for each test."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from mataserver_database import Database, Schema

HERE = Path(__file__).parent
_NUMBERS = itertools.count(1)


def _neighbour(name):
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def postgres():
    """The URL of a PostgreSQL server."""
    with _neighbour("postgres").running() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
async def place(request, tmp_path):
    """Arguments of a new database: two ``Database(*place)`` are two processes' view of it."""
    if request.param == "sqlite":
        return (tmp_path,)
    server = request.getfixturevalue("postgres")
    name = f"test_{next(_NUMBERS)}"
    admin = Database(tmp_path, server)
    async with admin._engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(sa.text(f"CREATE DATABASE {name}"))
    await admin.close()
    return (tmp_path, server.replace("/postgres", f"/{name}", 1).replace(":/", "://", 0))


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
