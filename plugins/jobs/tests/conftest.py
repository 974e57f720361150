"""Fixtures: a queue on a database of each kind, and a clock that the tests set."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mataserver_database.fixtures import empty_database, postgres, url
from mataserver_jobs.store import Store
from mataserver_jobs.table import SCHEMA

__all__ = ["clock", "database", "empty_database", "postgres", "store", "url"]

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


@pytest.fixture
async def database(empty_database):
    """A database with the tables of jobs."""
    await empty_database.migrate(SCHEMA)
    return empty_database


@pytest.fixture
def store(database, clock):
    """The queue."""
    return Store(database, clock)
