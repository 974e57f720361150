"""The database, on SQLite and on PostgreSQL: the same statements, the same failures."""

from __future__ import annotations

import asyncio
import gc
import shutil
import subprocess
import sys

import pytest
import sqlalchemy as sa
from database_notes import NOTES, fail, texts, write

from mataserver import MataError
from mataserver_database import Busy, Database, Full, NewerSchemaError, Schema, Unfit


async def test_what_was_written_is_read(database, schema):
    """Migrated tables hold what a transaction wrote, and nothing of one that failed."""
    await database.migrate(schema)
    await write(database, "first")
    with pytest.raises(ZeroDivisionError):
        await fail(database, sa.insert(NOTES).values(text="second"))
    await write(database, "third", stars=3)
    assert await texts(database) == ["first", "third"]


async def test_what_was_answered_survives_a_power_failure(database, schema):
    """A commit is on the disk when it returns, whichever connection it is of."""
    await database.migrate(schema)
    for way in (database.begin, database.read):
        async with way() as connection:
            if database.dialect == "sqlite":
                assert await connection.scalar(sa.text("PRAGMA synchronous")) == 2  # FULL
            else:
                assert await connection.scalar(sa.text("SHOW synchronous_commit")) == "on"


async def test_what_a_statement_breaks_is_the_callers(database, schema):
    """A rule of the tables that is broken is no trouble of the database."""
    await database.migrate(schema)
    await write(database, "once")
    with pytest.raises(sa.exc.IntegrityError):
        await write(database, "once")
    assert await texts(database) == ["once"]


@pytest.mark.parametrize(
    "value", [{"stars": 2**70}, {"text": "\ud800"}, {"text": "a\0b"}], ids=repr
)
async def test_a_value_that_it_does_not_hold(database, schema, value):
    """It is what is wrong, and tells nobody that the database is away; the next one is written."""
    await database.migrate(schema)
    if value.get("text") == "a\0b" and database.dialect == "sqlite":  # which holds it
        await write(database, **value)
        assert await texts(database) == ["a\0b"]
        return
    with pytest.raises(Unfit) as told:
        await write(database, **{"text": "odd", **value})
    assert told.value.status == 422
    await write(database, "next")
    assert await texts(database) == ["next"]


async def test_what_is_read_is_of_one_moment(place, schema):
    """Whatever another process writes meanwhile; the next reading finds that."""
    reader, writer = Database(*place), Database(*place)
    try:
        await reader.migrate(schema)
        await write(writer, "before")
        query = sa.select(NOTES.c.text)
        async with reader.read() as connection:
            assert list(await connection.scalars(query)) == ["before"]
            await write(writer, "meanwhile")
            assert list(await connection.scalars(query)) == ["before"]
        assert await texts(reader) == ["before", "meanwhile"]
        async with reader.begin() as connection:  # the same one: its transactions are as before
            if reader.dialect == "postgresql":
                level = await connection.scalar(sa.text("SHOW transaction_isolation"))
                assert level == "read committed"
    finally:
        await reader.close()
        await writer.close()


async def test_writers_wait_for_each_other(place, schema):
    """Fifty transactions that read and then write, of two processes at once, lose nothing."""
    databases = [Database(*place), Database(*place)]
    await databases[0].migrate(schema)
    await write(databases[0], "count")

    async def add(database):
        async with database.begin() as connection:
            lock = sa.select(NOTES.c.stars).with_for_update()
            stars = await connection.scalar(lock)
            await connection.execute(sa.update(NOTES).values(stars=stars + 1))

    await asyncio.gather(*(add(databases[number % 2]) for number in range(50)))
    async with databases[0].read() as connection:
        assert await connection.scalar(sa.select(NOTES.c.stars)) == 50
    for each in databases:
        await each.close()


async def test_a_locked_database_is_busy(place, schema):
    """Who waits too long for another's transaction is told so, and may try again."""
    holder, waiter = Database(*place), Database(*place, timeout=0.3)
    await holder.migrate(schema)
    await write(holder, "held")
    async with holder.begin() as connection:
        await connection.execute(sa.update(NOTES).values(stars=1))
        with pytest.raises(Busy) as told:
            async with waiter.begin() as second:
                await second.execute(sa.update(NOTES).values(stars=2))
    assert told.value.retry_after == 1
    await write(waiter, "after")
    await holder.close()
    await waiter.close()


async def test_a_table_that_is_gone_for_a_while_is_busy(database, schema):
    """Somebody restores a copy: who asks meanwhile may ask again."""
    await database.migrate(schema)
    for old, new in (("notes", "elsewhere"), ("elsewhere", "notes")):
        async with database.begin() as connection:
            await connection.execute(sa.text(f"ALTER TABLE {old} RENAME TO {new}"))
        if new == "elsewhere":
            with pytest.raises(Busy) as told:
                await write(database, "lost")
            assert told.value.retry_after == 1
    await write(database, "kept")
    async with database.read() as connection:
        assert list(await connection.scalars(sa.select(NOTES.c.text))) == ["kept"]


async def overfill(database):
    """Write until the disk is full, in one transaction."""
    async with database.begin() as connection:
        await connection.execute(sa.insert(NOTES).values(text="half"))
        if database.dialect == "sqlite":
            await connection.execute(sa.text("PRAGMA max_page_count = 1"))
            await connection.execute(sa.insert(NOTES).values(text="x" * 100_000))
        full = "DO $$ BEGIN RAISE EXCEPTION 'no space' USING ERRCODE = '53100'; END $$"
        await connection.execute(sa.text(full))


async def test_a_full_disk(database, schema):
    """What finds no room is 507 and changes nothing; what there is can be read, and added to later.

    SQLite's file is bounded here as a disk bounds it; PostgreSQL says what it says of its own disk.
    """
    await database.migrate(schema)
    await write(database, "before")
    with pytest.raises(Full) as told:
        await overfill(database)
    assert (told.value.status, told.value.detail) == (507, "The disk of the database is full")
    assert await texts(database) == ["before"]
    if database.dialect == "sqlite":
        async with database.read() as connection:
            await connection.execute(sa.text("PRAGMA max_page_count = 1000000"))
    await write(database, "after")
    assert await texts(database) == ["before", "after"]


async def lack(database, error):
    """Write, and fail before the end."""
    async with database.begin() as connection:
        await connection.execute(sa.insert(NOTES).values(text="half"))
        raise error


@pytest.mark.parametrize(
    ("error", "status"), [(MemoryError(), 507), (RuntimeError("can't start new thread"), 503)]
)
async def test_no_memory_and_no_threads(database, schema, error, status):
    """What lacks them changes nothing and can be tried again, by clients and by loops."""
    await database.migrate(schema)
    with pytest.raises(Busy) as told:
        await lack(database, error)
    assert told.value.status == status
    assert await texts(database) == []
    with pytest.raises(RuntimeError, match="a bug"):
        await lack(database, RuntimeError("a bug"))


async def stars(database):
    """Return the stars of the first note."""
    async with database.read() as connection:
        return await connection.scalar(sa.select(NOTES.c.stars).order_by(NOTES.c.id).limit(1))


SLOW = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000000) "
    "SELECT count(*) FROM n",
    "postgresql": "SELECT pg_sleep(1)",
}
"""A statement that takes a while, by the kind of database."""


async def test_who_is_cancelled_keeps_nobody_out(place, schema):
    """Once a writer's cancellation is through, also in mid-statement, others wait for no lock.

    The limit counts only while one is waited for, so a slow machine does not matter.
    """
    leaver = Database(*place)
    is_sqlite = leaver.dialect == "sqlite"
    other = Database(*place, timeout=0.001) if is_sqlite else Database(*place)
    await leaver.migrate(schema)
    await write(leaver, "held")
    begun = asyncio.Event()

    async def write_too():
        async with leaver.begin() as connection:
            await connection.execute(sa.update(NOTES).values(stars=7))
            begun.set()
            await connection.execute(sa.text(SLOW[leaver.dialect]))

    writing = asyncio.create_task(write_too())
    await begun.wait()
    await asyncio.sleep(0.02)
    assert not writing.done()
    writing.cancel()
    await asyncio.sleep(0.02)
    writing.cancel()  # as a server does that ends while the client leaves
    with pytest.raises(asyncio.CancelledError):
        await writing
    async with other.begin() as connection:
        if not is_sqlite:
            await connection.execute(sa.text("SET LOCAL lock_timeout = 1"))
        await connection.execute(sa.update(NOTES).values(text="after"))
    assert (await texts(leaver), await stars(leaver)) == (["after"], 0)
    for each in (leaver, other):
        await each.close()


async def test_a_cancellation_at_every_moment(database, schema):
    """Whatever a statement is at: who is cancelled leaves no half-used connection."""
    told = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context))
    await database.migrate(schema)
    await write(database, "first")
    for moment in range(90):
        work = write(database, f"note {moment}") if moment % 2 else texts(database)
        task = asyncio.create_task(work)
        await asyncio.sleep(moment // 3 * 0.0001)
        task.cancel()
        if moment % 3 == 0:
            await asyncio.sleep(0.0005)
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await write(database, "last")
    await database.close()
    gc.collect()  # what nobody holds any more says so now
    await asyncio.sleep(0.01)
    assert told == []


async def test_a_database_that_is_gone_is_busy(tmp_path):
    """Nothing that listens there, and a file that is no database: 503, without path or address."""
    (tmp_path / "mataserver.db").write_bytes(b"no database" * 1000)
    for gone in (
        Database(tmp_path, "postgresql://mata:secret@127.0.0.1:9/none", timeout=2.0),
        Database(tmp_path),
    ):
        with pytest.raises(Busy) as told:
            async with gone.read():
                pass
        assert told.value.detail == "The database does not answer now"
        await gone.close()


async def test_a_file_that_is_removed(tmp_path, schema):
    """What SQLite's file takes after its removal would be lost: 503 until the same file is back."""
    database, file = Database(tmp_path), tmp_path / "mataserver.db"
    await database.migrate(schema)
    await write(database, "first")
    file.rename(tmp_path / "away")
    for work in (write(database, "lost"), texts(database), database.check()):
        with pytest.raises(Busy, match="file was removed or replaced"):
            await work
    shutil.copy(tmp_path / "away", file)
    with pytest.raises(Busy, match="file was removed or replaced"):
        await write(database, "into a copy")
    (tmp_path / "away").rename(file)
    await write(database, "second")
    assert await texts(database) == ["first", "second"]
    await database.close()


async def test_a_file_that_is_removed_meanwhile(tmp_path, schema):
    """Who wrote while the file was removed is not told that it is kept."""
    database = Database(tmp_path)
    await database.migrate(schema)

    async def lose():
        async with database.begin() as connection:
            await connection.execute(sa.insert(NOTES).values(text="lost"))
            (tmp_path / "mataserver.db").unlink()

    with pytest.raises(Busy, match="file was removed or replaced"):
        await lose()
    await database.close()


async def test_closing_leaves_no_connection(place, schema):
    """Who has a connection is waited for, and nobody is given another: none outlives the end."""
    database = Database(*place)
    await database.migrate(schema)
    async with database.begin() as connection:
        closing = asyncio.create_task(database.close())
        await asyncio.sleep(0.1)
        assert not closing.done()
        with pytest.raises(Busy, match="closed"):
            await texts(database)
        await connection.execute(sa.insert(NOTES).values(text="last"))
    await closing
    with pytest.raises(Busy, match="closed"):
        await texts(database)
    again = Database(*place)
    assert await texts(again) == ["last"]
    await again.close()


async def test_foreign_keys_hold(database):
    """A row that points nowhere is refused by both."""
    async with database.begin() as connection:
        await connection.execute(sa.text("CREATE TABLE a (id INTEGER PRIMARY KEY)"))
        await connection.execute(sa.text("CREATE TABLE b (a INTEGER REFERENCES a (id))"))
    with pytest.raises(sa.exc.IntegrityError):
        async with database.begin() as connection:
            await connection.execute(sa.text("INSERT INTO b VALUES (7)"))


def test_gaps_in_migrations_are_refused(tmp_path, monkeypatch):
    """Migrations are numbered without a gap, so that a version says which ones ran."""
    (tmp_path / "gappy" / "migrations").mkdir(parents=True)
    (tmp_path / "gappy" / "__init__.py").write_text("")
    (tmp_path / "gappy" / "migrations" / "0002_late.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(LookupError, match="numbered from 0001"):
        _ = Schema("gappy", "gappy").head


async def test_alembic_is_imported_for_a_migration_alone(tmp_path, schema):
    """A start on tables that are as they should be does not pay for the migrations' library."""
    code = (
        "import asyncio, sys; sys.path.insert(0, sys.argv[2]);"
        "from pathlib import Path; from mataserver_database import Database, Schema\n"
        "async def main():\n"
        "    database = Database(Path(sys.argv[1]))\n"
        "    await database.migrate(Schema('guest', 'guest_tables'))\n"
        "    await database.close()\n"
        "asyncio.run(main()); print('alembic' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path), str(schema.folder.parent.parent)]
    for expected in ("True", "False"):
        ran = subprocess.run(command, capture_output=True, text=True, check=True)
        assert ran.stdout.strip() == expected


def test_the_orm_is_not_imported():
    """Nobody here uses SQLAlchemy's ORM, which is a third of what the library takes to import."""
    code = "import sys, mataserver_database.lifetime; print('sqlalchemy.orm' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"


def test_errors_are_the_servers():
    """Both failures become a status and a sentence."""
    assert issubclass(Busy, MataError)
    assert issubclass(NewerSchemaError, MataError)
