"""The connection that listens for what other processes change: a lost one is replaced."""

from __future__ import annotations

import asyncio

import sqlalchemy as sa

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
    """Neither a thread nor memory for the connection: it is tried again, and what changed heard."""
    monkeypatch.setattr(changes, "RETRY_SECONDS", 0.01)
    mine, theirs, heard = Database(tmp_path), Database(tmp_path), asyncio.Event()
    await mine.migrate(schema)
    failures = [RuntimeError("can't start new thread"), MemoryError()]
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
