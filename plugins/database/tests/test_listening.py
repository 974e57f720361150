"""What other processes change is heard, also after the connection that listens was lost."""

from __future__ import annotations

import asyncio
import itertools

import pytest
import sqlalchemy as sa
from database_notes import NOTES, fail, write

from mataserver import MataError
from mataserver_database import Database, changes


async def test_who_loses_the_connection_hears_again(tmp_path, schema):
    """SQLite's driver ended under the listener: what was announced afterwards is heard."""
    mine, theirs, taken, heard = Database(tmp_path), Database(tmp_path), [], asyncio.Event()
    sa.event.listen(
        mine._engine, "checkout", lambda _, record, __: taken.append(record.driver_connection)
    )
    await mine.migrate(schema)
    mine.watch("notes", heard.set)
    async with asyncio.timeout(20):
        await heard.wait()
    heard.clear()
    await taken[-1].close()
    async with theirs.begin() as connection:
        await theirs.announce(connection, "notes")
    async with asyncio.timeout(20):
        await heard.wait()
    await mine.close()
    await theirs.close()


async def test_who_listens_goes_on_after_a_shortage(tmp_path, schema, monkeypatch):
    """No thread, no memory, a file of the URL gone: it is tried again, and what changed heard."""
    monkeypatch.setattr(changes, "RETRY_SECONDS", 0.01)
    mine, theirs, heard = Database(tmp_path), Database(tmp_path), asyncio.Event()
    await mine.migrate(schema)
    failures = [RuntimeError("can't start new thread"), MemoryError(), MataError("no certificate")]
    connected = changes.connected

    def starved(engine):
        if failures:
            raise failures.pop()
        return connected(engine)

    monkeypatch.setattr(changes, "connected", starved)
    mine.watch("notes", heard.set)
    for _ in range(2):
        async with asyncio.timeout(20):
            await heard.wait()
        heard.clear()
        async with theirs.begin() as connection:
            await theirs.announce(connection, "notes")
    assert not failures
    await mine.close()
    await theirs.close()


async def test_the_end_is_no_interruption(database, schema, caplog):
    """One that hears of changes and is closed says nothing of a connection that was lost."""
    await database.migrate(schema)
    heard = asyncio.Event()
    database.watch("notes", heard.set)
    numbers = itertools.count()
    while not heard.is_set():  # what is announced is heard once it listens
        async with database.begin() as connection:
            await connection.execute(sa.insert(NOTES).values(text=str(next(numbers))))
            await database.announce(connection, "notes")
        await asyncio.sleep(0.05)
    await database.close()
    assert "interrupted" not in caplog.text


async def settled(heard):
    """Wait until a watcher was told for the first time, and forget it."""
    async with asyncio.timeout(20):
        await heard.wait()
    await asyncio.sleep(0.1)
    heard.clear()


async def test_changes_before_the_watch_are_not_missed(place, schema):
    """Each who begins to watch is told once: others may have changed it since they read."""
    mine, theirs = Database(*place), Database(*place)
    await mine.migrate(schema)
    for _ in range(2):
        heard = asyncio.Event()
        async with theirs.begin() as connection:
            await theirs.announce(connection, "notes")
        mine.watch("notes", heard.set)
        await settled(heard)
    await mine.close()
    await theirs.close()


async def test_changes_of_others_are_told(place, schema):
    """A watcher hears within a second of what another process announced."""
    mine, theirs = Database(*place), Database(*place)
    await mine.migrate(schema)
    heard, others = asyncio.Event(), []
    mine.watch("notes", heard.set)
    mine.watch("others", lambda: others.append(1))
    await settled(heard)
    others.clear()
    await write(theirs, "not announced")
    await asyncio.sleep(0.5)
    assert not heard.is_set()
    async with theirs.begin() as connection:
        await connection.execute(sa.insert(NOTES).values(text="news"))
        await theirs.announce(connection, "notes")
    async with asyncio.timeout(20):
        await heard.wait()
    assert others == []
    await mine.close()
    await theirs.close()


async def test_announcements_that_are_not_committed_are_not_heard(place, schema):
    """A transaction that fails tells nobody."""
    mine, theirs = Database(*place), Database(*place)
    await mine.migrate(schema)
    heard = asyncio.Event()
    mine.watch("notes", heard.set)
    await settled(heard)
    with pytest.raises(ZeroDivisionError):
        await fail(theirs, sa.insert(NOTES).values(text="news"))
    await asyncio.sleep(0.6)
    assert not heard.is_set()
    await mine.close()
    await theirs.close()
