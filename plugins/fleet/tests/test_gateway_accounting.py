"""Counts of requests on their way to the database, where that or the system fails."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import types
import uuid

import pytest
import sqlalchemy as sa

from mataserver import Unavailable
from mataserver_database import Database
from mataserver_database.testing import new_database
from mataserver_fleet.gateway import accounting
from mataserver_fleet.gateway.accounting import Accounting, rows
from mataserver_fleet.gateway.limits import RateLimiter
from mataserver_fleet.gateway.usage import DAY, Subject, Usage
from mataserver_fleet.store import Store
from mataserver_fleet.tables import FACTS, SCHEMA

ANNA = Subject("anna", "shop", "cats")
TODAY = 20_000
"""The day of the requests, by the gateway's clock."""


@contextlib.asynccontextmanager
async def opened(made):
    """Give a database that is closed in the end."""
    try:
        await made.migrate(SCHEMA)
        yield made
    finally:
        await made.close()


@pytest.fixture
async def database(tmp_path):
    async with opened(Database(tmp_path)) as made:
        yield made


def gateway():
    return types.SimpleNamespace(usage=Usage(), limits=RateLimiter(lambda: TODAY * DAY))


async def written(database):
    """Return how many requests the database has counted."""
    async with database.read() as connection:
        return sum(row["requests"] for row in await rows(connection, 0, 10**6))


async def test_without_a_thread_nothing_is_lost(database, tmp_path):
    """What could not be written is written the next time."""
    asked = gateway()
    accounts = Accounting(Store(database), asked, 1.0, tmp_path / "gateways")
    asked.usage.note(TODAY, ANNA, 200, 1, 1)
    counted = accounts._presence.others

    def no_thread():
        raise RuntimeError("can't start new thread")

    accounts._presence.others = no_thread
    with pytest.raises(RuntimeError, match="thread"):
        await accounts.settle()
    accounts._presence.others = counted
    assert await accounts.settle()
    assert await written(database) == 1


async def test_without_memory_nothing_is_lost(database, tmp_path, monkeypatch):
    """Nor where a statement cannot even be made."""
    asked = gateway()
    accounts = Accounting(Store(database), asked, 1.0, tmp_path / "gateways")
    asked.usage.note(TODAY, ANNA, 200, 1, 1)
    with monkeypatch.context() as patched:
        patched.setattr(accounting, "_insert", lambda _: (_ for _ in ()).throw(ValueError))
        with pytest.raises(ValueError):  # noqa: PT011 - any that the database does not translate
            await accounts.settle()
    assert await accounts.settle()
    assert await written(database) == 1


async def test_the_end_of_the_server_loses_and_doubles_nothing(database, tmp_path):
    """The task is cancelled while it looks for other gateways, then the last counts are written."""
    asked, looks, ended = gateway(), asyncio.Event(), threading.Event()
    accounts = Accounting(Store(database), asked, 3600.0, tmp_path / "gateways")
    asked.usage.note(TODAY, ANNA, 200, 1, 1)
    counted, loop = accounts._presence.others, asyncio.get_running_loop()

    def slow():
        loop.call_soon_threadsafe(looks.set)
        ended.wait(20)
        return counted()

    accounts._presence.others = slow
    running = asyncio.create_task(accounts.run())
    await looks.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    ended.set()
    accounts._presence.others = counted
    await accounts.close()
    assert await written(database) == 1


async def test_a_cancelled_write_is_counted_once(database, tmp_path):
    """It is completed, so it is not written again."""
    asked, begun = gateway(), asyncio.Event()
    accounts = Accounting(Store(database), asked, 3600.0, tmp_path / "gateways")
    asked.usage.note(TODAY, ANNA, 200, 1, 1)
    write = accounts._write

    async def noted(*given):
        begun.set()
        return await write(*given)

    accounts._write = noted
    running = asyncio.create_task(accounts.run())
    await begun.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await accounts.close()
    assert await written(database) == 1


async def test_many_counts_are_written_at_once(url, tmp_path):
    """With as many statements as a single one: what is not written yet, a killed gateway loses."""
    async with opened(Database(tmp_path, url)) as database:
        asked, statements = gateway(), []
        accounts = Accounting(Store(database), asked, 1.0, tmp_path / "gateways")
        await accounts.begin()
        asked.usage.note(TODAY, ANNA, 200, 1, 1)
        await accounts.settle()
        listen(database, statements)
        asked.usage.note(TODAY, ANNA, 200, 1, 1)
        await accounts.settle()
        for_one = statements.copy()
        statements.clear()
        for number in range(200):
            asked.usage.note(TODAY, ANNA._replace(model=f"model-{number % 100}"), 200, 1, 1)
        await accounts.settle()
        assert statements == for_one
        assert await written(database) == 202


def listen(database, statements):
    """Have each statement that a database is sent added to a list."""

    @sa.event.listens_for(database._engine, "before_cursor_execute")
    def note(_connection, _cursor, statement, *_):
        statements.append(statement)


class LosesWord(Database):
    """A database that stores what it is given, and once loses the word of that."""

    loses = False

    @contextlib.asynccontextmanager
    async def begin(self):
        async with super().begin() as connection:
            yield connection
        if self.loses:
            self.loses = False
            raise Unavailable("the connection was lost")


async def test_what_was_written_without_word_of_it_counts_once(url, tmp_path):
    """And what came since is written with it."""
    async with opened(LosesWord(tmp_path, url)) as database:
        asked = gateway()
        accounts = Accounting(Store(database), asked, 1.0, tmp_path / "gateways")
        await accounts.begin()
        for number in range(2):
            database.loses = True
            for _ in range(3):
                asked.usage.note(TODAY, ANNA, 200, 1, 1)
            assert not await accounts.settle()
            assert await written(database) == 7 * number + 3
            for _ in range(4):
                asked.usage.note(TODAY, ANNA, 200, 1, 1)
            assert await accounts.settle()
            assert await written(database) == 7 * number + 7
        await accounts.close()
        async with database.read() as connection:
            assert not list(await connection.execute(sa.select(FACTS)))


async def test_a_batch_whose_transaction_is_still_at_work(postgres, tmp_path):
    """The database waits with it for the end of that, though its connection was given up."""
    url = await new_database(postgres, f"test_{uuid.uuid4().hex}")
    async with opened(Database(tmp_path, url)) as database:
        asked, begun, ends = gateway(), asyncio.Event(), asyncio.Event()
        accounts = Accounting(Store(database), asked, 1.0, tmp_path)
        count = accounts._count_gateways
        asked.usage.note(TODAY, ANNA, 200, 1, 1)

        async def slow(*given):
            begun.set()
            await ends.wait()
            return await count(*given)

        accounts._count_gateways = slow
        first = asyncio.create_task(accounts._settle(0))
        await begun.wait()
        accounts._count_gateways = count
        second = asyncio.create_task(accounts._settle(0))
        waiting = sa.text(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        async with asyncio.timeout(20):
            while not second.done():
                async with database.read() as connection:
                    if await connection.scalar(waiting):
                        break
        ends.set()
        assert await asyncio.gather(first, second) == [True, True]
        assert await written(database) == 1


async def test_numbers_of_gateways_that_were_killed_go(database, tmp_path):
    """After a month, and not before: one may still have to write its last batch anew."""
    now = [40 * DAY]
    for name, day in (("old", 1), ("new", 39)):
        row = {"name": f"written-{name}", "value": "7", "until": day * DAY}
        async with database.begin() as connection:
            await connection.execute(sa.insert(FACTS).values(**row))
    asked = gateway()
    accounts = Accounting(Store(database, lambda: now[0]), asked, 1.0, tmp_path / "gateways")
    asked.usage.note(TODAY, ANNA, 200, 1, 1)
    assert await accounts.settle()
    async with database.read() as connection:
        names = set(await connection.scalars(sa.select(FACTS.c.name)))
    assert names == {"written-new", accounts._written}


class Away:
    """A transaction of a database that is away."""

    begun = 0

    async def __aenter__(self):
        Away.begun += 1
        raise Unavailable("away")

    async def __aexit__(self, *exc):
        pass


async def test_a_database_that_is_away_is_asked_as_often_as_usual(tmp_path, monkeypatch):
    """Though a quota is nearly used up, so that others would be asked for sooner."""
    database = types.SimpleNamespace(dialect="postgresql", begin=Away, read=Away)
    asked, waits = gateway(), []
    asked.limits.gateways = 2
    store = types.SimpleNamespace(database=database, clock=lambda: DAY)
    accounts = Accounting(store, asked, 5.0, tmp_path)
    consumer = types.SimpleNamespace(id=1, name="anna", quota=10, rate=None)

    async def wait(seconds):
        waits.append(seconds)
        asked.limits.admit(consumer)
        assert asked.limits.settle_soon.is_set()
        if len(waits) == 3:
            raise asyncio.CancelledError

    monkeypatch.setattr(accounting, "asyncio", types.SimpleNamespace(**vars(asyncio)))
    monkeypatch.setattr(accounting.asyncio, "sleep", wait)
    with pytest.raises(asyncio.CancelledError):
        await accounts.run()
    assert (waits, Away.begun) == ([5.0] * 3, 3)
