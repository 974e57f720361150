"""Migrations: once, by one process, completely or not at all; on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import subprocess
import sys

import pytest
import sqlalchemy as sa

from mataserver_database import Database, NewerSchemaError, Schema

NOTES = sa.table("notes", sa.column("id"), sa.column("text"), sa.column("stars"))


async def kept(database, text):
    """Write a note with stars, which the newest migration made; return all notes."""
    async with database.begin() as connection:
        await connection.execute(sa.insert(NOTES).values(text=text, stars=3))
        return list(await connection.scalars(sa.select(NOTES.c.text).order_by(NOTES.c.id)))


async def test_migrations_run_once(place, schema):
    """Ten processes that start at once migrate once; a second start changes nothing."""
    databases = [Database(*place) for _ in range(10)]
    await asyncio.gather(*(each.migrate(schema) for each in databases))
    assert await kept(databases[0], "first") == ["first"]
    await databases[1].migrate(schema)
    assert await kept(databases[2], "second") == ["first", "second"]
    for each in databases:
        await each.close()


async def test_a_new_file_is_opened_by_one_at_a_time(tmp_path, schema):
    """Two that turn SQLite's write-ahead log on at the same moment would fail one of them."""
    database = Database(tmp_path)
    with (tmp_path / "mataserver.db.lock").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        opening = asyncio.create_task(database.migrate(schema))
        assert not (await asyncio.wait({opening}, timeout=0.5))[0]
        assert (tmp_path / "mataserver.db").stat().st_size == 0
    await opening
    assert await kept(database, "first") == ["first"]
    await database.close()


async def test_a_newer_database_is_left_alone(database, schema):
    """Tables of a version that the code does not know are refused in a sentence."""
    await database.migrate(schema)
    async with database.begin() as connection:
        await connection.execute(sa.text("UPDATE guest_version SET version_num = '0003'"))
    with pytest.raises(NewerSchemaError, match="holds guest 0003, newer than 0002"):
        await database.migrate(schema)


async def test_a_database_that_a_newer_server_migrates(
    database, place, schema, tmp_path, monkeypatch
):
    """A server of before that still runs is told so when it asks whether all is well."""
    await database.migrate(schema)
    await database.check()
    monkeypatch.syspath_prepend(str(tmp_path))
    folder, url = place
    newest = Database(folder, url)
    await newest.migrate(newer(schema, tmp_path / "newer_tables", "pass"))
    await newest.check()
    await newest.close()
    with pytest.raises(NewerSchemaError, match="holds guest 0003, newer than 0002"):
        await database.check()


def newer(schema, package, upgrade):
    """Return a schema with one more migration, which does something."""
    (package / "migrations").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    for path in schema.folder.glob("*.py"):
        (package / "migrations" / path.name).write_text(path.read_text())
    step = f"import os, time\nrevision, down_revision = '0003', '0002'\ndef upgrade(): {upgrade}\n"
    (package / "migrations" / "0003_more.py").write_text(step)
    return Schema("guest", package.name)


async def test_a_long_migration_is_waited_for(place, schema, tmp_path, monkeypatch):
    """A server that starts while another migrates waits, also for longer than for a statement."""
    monkeypatch.syspath_prepend(str(tmp_path))
    begun, go_on = tmp_path / "begun", tmp_path / "go-on"
    wait = f"while not os.path.exists({str(go_on)!r}): time.sleep(.01)"
    slow = newer(schema, tmp_path / "slow_tables", f"\n open({str(begun)!r}, 'w').close()\n {wait}")
    migrate = (
        "import asyncio, sys; from pathlib import Path\n"
        "from mataserver_database import Database, Schema\n"
        "async def main():\n"
        "    database = Database(Path(sys.argv[1]), sys.argv[2] or None)\n"
        "    await database.migrate(Schema('guest', 'slow_tables'))\n"
        "    await database.close()\n"
        "asyncio.run(main())"
    )
    folder, url = place
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", migrate, str(folder), url or ""]
    first, second = subprocess.Popen(command, env=environment), Database(*place, timeout=0.2)
    try:
        async with asyncio.timeout(60):
            while not begun.exists():
                await asyncio.sleep(0.02)
            waiting = asyncio.ensure_future(second.migrate(slow))
            done, _ = await asyncio.wait([waiting], timeout=1.0)
            go_on.touch()
            assert not done
            await waiting
        assert first.wait(60) == 0
        assert await kept(second, "there") == ["there"]
    finally:
        go_on.touch()
        first.wait(60)
        await second.close()


@pytest.mark.parametrize("step", range(1, 34, 4))
async def test_a_migration_that_is_killed_leaves_nothing(place, schema, step):
    """A server that is killed at any moment of a migration is followed by one that makes it."""
    code = (
        "import asyncio, os, signal, sys; sys.path.insert(0, sys.argv[3])\n"
        "from itertools import count; from pathlib import Path; from sqlalchemy import event\n"
        "from mataserver_database import Database, Schema\n"
        "steps = count(1)\n"
        "def step(*_):\n"
        "    if next(steps) == int(sys.argv[4]): os.kill(os.getpid(), signal.SIGKILL)\n"
        "async def main():\n"
        "    database = Database(Path(sys.argv[1]), sys.argv[2] or None)\n"
        "    for moment in ('before_cursor_execute', 'after_cursor_execute', 'commit'):\n"
        "        event.listen(database._engine, moment, step)\n"
        "    await database.migrate(Schema('guest', 'guest_tables'))\n"
        "    await database.close()\n"
        "asyncio.run(main())"
    )
    folder, url = place
    guest = str(schema.folder.parent.parent)
    command = [sys.executable, "-c", code, str(folder), url or "", guest, str(step)]
    killed = await asyncio.to_thread(subprocess.run, command, check=False)
    assert killed.returncode == -signal.SIGKILL or (step > 20 and killed.returncode == 0)
    database = Database(*place)
    await database.migrate(schema)
    assert await kept(database, "there") == ["there"]
    await database.close()


async def test_a_failed_migration_leaves_nothing(database, schema, tmp_path, monkeypatch):
    """What the steps before had done is undone, and the version is that of before."""
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ZeroDivisionError):
        await database.migrate(newer(schema, tmp_path / "broken_tables", "1 / 0"))
    async with database.read() as connection:
        names = await connection.run_sync(lambda plain: sa.inspect(plain).get_table_names())
    assert names in ([], ["mataserver_changes"])
