"""PostgreSQL that says nothing any more: nobody waits for ever, and nobody misses a change."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from database_notes import NOTES, texts, write

from mataserver import MataError
from mataserver.testing import installed, serving
from mataserver_database import Busy, Database, answer_limit, changes
from mataserver_database.testing import new_database
from silent_way import SilentWay

pytestmark = pytest.mark.long

PATIENCE = 20.0
"""Seconds for what takes under one: without it a test would wait for as long as the database."""


@pytest.fixture(autouse=True)
def _hurry(monkeypatch):
    monkeypatch.setattr(answer_limit, "SLACK_SECONDS", 0.2)
    monkeypatch.setattr("mataserver_database.engines.SLACK_SECONDS", 0.2)
    monkeypatch.setattr(changes, "HEARTBEAT_SECONDS", 0.1)
    monkeypatch.setattr(changes, "RETRY_SECONDS", 0.05)


@pytest.fixture
async def place(postgres, request):
    """The URL of an empty database."""
    return await new_database(postgres, f"silent_{abs(hash(request.node.name)) % 10**8}")


async def prepare(tmp_path, place, schema, *written):
    """Make the tables, with all the time that it takes, and write texts."""
    database = Database(tmp_path, place)
    await database.migrate(schema)
    for each in written:
        await write(database, each)
    await database.close()


async def until(task):
    """Return what a task raises or gives. It is not cancelled: that would wait for its end."""
    await asyncio.wait([task], timeout=PATIENCE)
    assert task.done()
    return task.exception() or task.result()


async def heard_again(event, announcing):
    """Announce a change; assert that it is heard."""
    event.clear()
    async with announcing.begin() as connection:
        await announcing.announce(connection, "notes")
    async with asyncio.timeout(PATIENCE):
        await event.wait()


async def test_a_listener_whose_connection_is_forgotten(tmp_path, place, schema):
    """Nothing tells that it ended: it is asked, and a change that was missed is heard."""
    async with SilentWay(place) as way:
        mine, theirs = Database(tmp_path, way.url, timeout=1.0), Database(tmp_path, place)
        await theirs.migrate(schema)
        heard = asyncio.Event()
        mine.watch("notes", heard.set)
        await heard.wait()
        await heard_again(heard, theirs)
        way.silence()
        await heard_again(heard, theirs)
        await mine.close()
        await theirs.close()


async def test_a_listener_that_is_cut_off_as_it_begins(tmp_path, place, schema):
    """The driver's own error, of a connection that is lost just then, is no end of it."""
    cut = []

    def sent(data):
        if b"LISTEN" in data and len(cut) < 3:
            cut.append(data)
            return False
        return True

    async with SilentWay(place, sent) as way:
        mine, theirs = Database(tmp_path, way.url), Database(tmp_path, place)
        await mine.migrate(schema)
        heard = asyncio.Event()
        mine.watch("notes", heard.set)
        async with asyncio.timeout(PATIENCE):
            await heard.wait()
        assert len(cut) == 3
        await heard_again(heard, theirs)
        await mine.close()
        await theirs.close()


@pytest.mark.parametrize("statement", ["first", "later"])
async def test_an_answer_that_does_not_come(tmp_path, place, schema, statement):
    """Whoever waits for it is told so, and the next one who asks is answered as before."""
    async with SilentWay(place) as way:
        await prepare(tmp_path, place, schema, "before")
        database = Database(tmp_path, way.url, timeout=1.0)

        async def change():
            async with database.begin() as connection:
                if statement == "later":
                    await connection.execute(NOTES.insert().values(text="never"))
                way.silence(new=True)
                await connection.execute(NOTES.insert().values(text="lost"))

        for work in (change(), texts(database), write(database, "too"), database.check()):
            with contextlib.suppress(AssertionError):  # say it once the database is closed
                assert isinstance(await until(asyncio.ensure_future(work)), Busy)
                continue
            way.speak()
            pytest.fail("it waits for an answer")
        way.speak()
        await write(database, "after")
        assert await texts(database) == ["before", "after"]
        await database.close()


@pytest.mark.parametrize("word", ["BEGIN;", "version()", "current_schema", "ROLLBACK"])
async def test_what_the_driver_asks_by_itself_is_not_answered(tmp_path, place, word):
    """Of the first connection of all it asks some things before anybody can ask it anything."""

    def sent(data):
        if word.encode() in data and not silent:
            silent.append(data)
            way.silence(new=True)
        return True

    silent = []
    async with SilentWay(place, sent) as way:
        database = Database(tmp_path, way.url, timeout=1.0)
        checking = asyncio.ensure_future(database.check())
        await asyncio.wait([checking], timeout=PATIENCE)
        ended = checking.done()
        way.speak()
        assert isinstance(await until(checking), Busy)
        assert ended
        assert silent
        await database.check()
        await database.close()


async def test_a_connection_that_was_forgotten_while_it_was_idle(
    tmp_path, place, schema, monkeypatch
):
    """It is given up long before an answer would be, and another one is opened."""
    monkeypatch.setattr(answer_limit, "PING_SECONDS", 0.5)
    async with SilentWay(place) as way:
        database = Database(tmp_path, way.url, timeout=600.0)
        await database.migrate(schema)
        await write(database, "before")
        way.silence()
        reading = asyncio.ensure_future(texts(database))
        await asyncio.wait([reading], timeout=PATIENCE)
        found = reading.done()
        way.speak()
        assert await reading == ["before"]
        assert found
        await database.close()


async def test_a_start_says_that_nothing_was_answered(tmp_path, place):
    """The error of a time that is over says nothing itself."""
    async with SilentWay(place) as way:
        way.silence(new=True)
        plugins = {"database": {"url": way.url, "timeout": 1.0}}
        with pytest.raises(MataError) as told:
            async with serving(tmp_path, entry_points=installed("database"), plugins=plugins):
                pass
    assert told.value.hint == "plugins.database.url: no answer in time"


async def test_the_end_of_a_silent_database(tmp_path, place, schema):
    """Closing it does not wait for an answer either."""
    async with SilentWay(place) as way:
        await prepare(tmp_path, place, schema)
        database = Database(tmp_path, way.url, timeout=1.0)
        heard = asyncio.Event()
        database.watch("notes", heard.set)
        await asyncio.gather(*(texts(database) for _ in range(4)), heard.wait())
        way.silence(new=True)
        closing = asyncio.ensure_future(database.close())
        await asyncio.wait([closing], timeout=PATIENCE)
        ended = closing.done()
        way.speak()
        await closing
        assert ended


async def test_a_statement_that_takes_its_time_within_a_migration(tmp_path, place, schema):
    """A large table may take longer than any answer else."""
    database = Database(tmp_path, place, timeout=1.0)

    def slow(connection):
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        connection.exec_driver_sql("SELECT pg_sleep(2)")
        return "done"

    async with database.begin() as connection:
        assert await connection.run_sync(slow) == "done"
    await database.close()


async def test_a_server_is_not_ready(tmp_path, place):
    """``GET /ready`` tells that the database says nothing, and forgets it when it does again."""
    import aiohttp

    async with SilentWay(place) as way:
        plugins = {"database": {"url": way.url, "timeout": 1.0}}
        async with (
            serving(tmp_path, entry_points=installed("database"), plugins=plugins) as server,
            aiohttp.ClientSession(server.url) as http,
        ):
            for status in (503, 200):
                way.silence(new=True) if status == 503 else way.speak()
                try:
                    async with asyncio.timeout(PATIENCE):
                        while (await http.get("/ready")).status != status:
                            await asyncio.sleep(0.05)
                finally:
                    if status == 200:
                        way.speak()
