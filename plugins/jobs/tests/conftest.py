"""Fixtures: a queue on a database of each kind, and a clock that the tests set."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from msgspec import Struct

from mataserver_database import Database
from mataserver_database.fixtures import empty_database, postgres, url
from mataserver_jobs.kinds import JobKind
from mataserver_jobs.store import Store
from mataserver_jobs.table import SCHEMA
from openapi_watch import documented_answers

__all__ = [
    "clock",
    "database",
    "documented_answers",
    "empty_database",
    "kinds",
    "postgres",
    "queue",
    "store",
    "url",
]

HERE = str(Path(__file__).parent)
if HERE not in sys.path:  # behind all others, whose tests have a conftest too
    sys.path.append(HERE)

import job_functions  # noqa: E402 - found by the path above


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
async def database(empty_database, clock, monkeypatch):
    """A database with the tables of jobs, and the clock that the test sets."""
    await empty_database.migrate(SCHEMA)
    monkeypatch.setattr(empty_database, "now", lambda: sa.literal(clock.now))
    return empty_database


@pytest.fixture
def store(database):
    """The queue, by the clock that the test sets."""
    return Store(database)


@pytest.fixture
async def queue(tmp_path):
    """A queue in SQLite, by the clock of the world, for what runs jobs."""
    made = Database(tmp_path)
    await made.migrate(SCHEMA)
    yield Store(made)
    await made.close()


@pytest.fixture
def kinds():
    """Kinds of jobs, whose functions a job's process finds too."""
    stages = {"counting": (10.0, 90.0)}
    runs = (job_functions.count, job_functions.misbehave, job_functions.echo)
    return {
        run.__name__: JobKind(name=run.__name__, run=run, spec=Struct, stages=stages, grace=1.0)
        for run in runs
    }
