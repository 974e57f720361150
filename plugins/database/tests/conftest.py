"""Fixtures: a database of each kind, empty for each test."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mataserver_database import Schema
from mataserver_database.fixtures import empty_database, postgres, url
from openapi_watch import documented_answers

__all__ = ["database", "documented_answers", "empty_database", "place", "postgres", "schema", "url"]

HERE = Path(__file__).parent
if str(HERE) not in sys.path:  # behind all others, whose tests have a conftest too
    sys.path.append(str(HERE))


@pytest.fixture
def place(url, tmp_path):
    """Arguments of a new database: two ``Database(*place)`` are two processes' view of it."""
    return tmp_path, url


@pytest.fixture
def database(empty_database):
    """A database."""
    return empty_database


@pytest.fixture
def schema():
    """The schema of a guest with two migrations."""
    sys.modules.pop("guest_tables", None)
    return Schema("guest", "guest_tables")
