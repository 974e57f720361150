"""Fixtures of pytest for plugins that keep something: each test once with each kind of database.

A ``conftest.py`` imports those that it wants. They need pytest-asyncio, and Debian's
``postgresql``.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest

from mataserver_database import Database
from mataserver_database.testing import new_database, running_postgres

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

__all__ = ["empty_database", "postgres", "url"]


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL server."""
    with running_postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
async def url(request: pytest.FixtureRequest) -> str | None:
    """Where an empty database is: None for SQLite in ``tmp_path``, else the URL of PostgreSQL."""
    if request.param == "sqlite":
        return None
    server = request.getfixturevalue("postgres")
    return await new_database(server, f"test_{uuid.uuid4().hex}")


@pytest.fixture
async def empty_database(url: str | None, tmp_path: Path) -> AsyncIterator[Database]:
    """A database without tables."""
    made = Database(tmp_path, url)
    yield made
    await made.close()
