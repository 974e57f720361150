"""Fixtures: a queue on a database of each kind, and a clock that the tests set."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest

from mataserver_database import Database
from mataserver_database.testing import new_database, running_postgres
from mataserver_jobs.store import Store
from mataserver_jobs.table import SCHEMA

_NUMBERS = itertools.count(1)


HERE = str(Path(__file__).parent)
if HERE not in sys.path:  # behind all others, whose tests have a conftest too
    sys.path.append(HERE)


class Clock:
    """Unix seconds that a test sets."""

    now = 1_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    """The clock of every store of a test."""
    return Clock()


@pytest.fixture(scope="session")
def postgres():
    """The URL of a PostgreSQL server."""
    with running_postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
async def database(request, tmp_path):
    """A database with the tables of jobs."""
    url = None
    if request.param == "postgresql":
        server = request.getfixturevalue("postgres")
        url = await new_database(server, f"jobs_{next(_NUMBERS)}")
    made = Database(tmp_path, url)
    await made.migrate(SCHEMA)
    yield made
    await made.close()


@pytest.fixture
def store(database, clock):
    """The queue."""
    return Store(database, clock)
