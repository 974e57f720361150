"""Fixtures: accounts on a database of each kind, and a clock that the tests set."""

from __future__ import annotations

import itertools
import time

import pytest

from mataserver_accounts.passwords import Passwords
from mataserver_accounts.store import Accounts
from mataserver_accounts.tables import SCHEMA
from mataserver_database import Database
from mataserver_database.testing import new_database, running_postgres

_NUMBERS = itertools.count(1)


class Clock:
    """Unix seconds that a test sets."""

    def __init__(self):
        self.now = time.time()

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    """The clock of every part of a test."""
    return Clock()


@pytest.fixture(scope="session")
def postgres():
    """The URL of a PostgreSQL server."""
    with running_postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
async def database(request, tmp_path):
    """A database with the tables of accounts."""
    url = None
    if request.param == "postgresql":
        server = request.getfixturevalue("postgres")
        url = await new_database(server, f"accounts_{next(_NUMBERS)}")
    made = Database(tmp_path, url)
    await made.migrate(SCHEMA)
    yield made
    await made.close()


@pytest.fixture
def accounts(database, clock):
    """Users and keys."""
    return Accounts(database, Passwords(), clock)
