"""The connection that listens for what other processes change: a lost one is replaced."""

from __future__ import annotations

import asyncio

import sqlalchemy as sa

from mataserver_database import Database


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
