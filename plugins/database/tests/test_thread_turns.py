"""How often SQLite's thread is given something to do: each time costs two switches of threads."""

from __future__ import annotations

from collections import Counter

import aiosqlite
import pytest
import sqlalchemy as sa
from database_notes import texts, write

from mataserver_database import Busy, Database, Schema

TURNS_OF_A_READING = 6
"""To begin, to open a cursor, to execute, to read all, to commit, and the pool's rollback."""


@pytest.fixture
async def notes(tmp_path, schema):
    """A database of SQLite with one note, one of whose connections is open."""
    database = Database(tmp_path)
    await database.migrate(schema)
    await write(database, "first")
    yield database
    await database.close()


@pytest.fixture
def turns(monkeypatch):
    """Count the turns of the driver's threads by what they are given."""
    counted = Counter()
    hand_over = aiosqlite.Connection._execute

    async def counting(self, function, *arguments, **more):
        counted[function.__name__] += 1
        return await hand_over(self, function, *arguments, **more)

    monkeypatch.setattr(aiosqlite.Connection, "_execute", counting)
    return counted


async def test_a_reading(notes, turns):
    """A transaction begins in one turn, without a cursor of its own."""
    assert await texts(notes) == ["first"]
    assert turns.total() == TURNS_OF_A_READING, turns


async def test_a_check_of_several_schemas_is_one_statement(notes, tmp_path, monkeypatch, turns):
    """An idle server asks every two seconds: many plugins cost it no more than one."""
    for name in ("one", "two"):
        place = tmp_path / "packages" / f"tables_of_{name}" / "migrations"
        place.mkdir(parents=True)
        (place.parent / "__init__.py").touch()
        (place / "0001_nothing.py").write_text(
            'revision, down_revision = "0001", None\n\n\ndef upgrade():\n    pass\n'
        )
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    for name in ("one", "two"):
        await notes.migrate(Schema(name, f"tables_of_{name}"))
    turns.clear()
    await notes.check()
    assert turns.total() == TURNS_OF_A_READING, turns


async def test_a_connection_that_the_driver_closed(notes):
    """Whoever meets it is told so, and nobody meets it again."""
    async with notes.read() as connection:
        await connection.scalar(sa.text("SELECT 1"))
        driver = connection.plain.connection.driver_connection
    await driver.close()
    with pytest.raises(Busy):
        await texts(notes)
    assert await texts(notes) == ["first"]
