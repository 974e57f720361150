"""Jobs in processes of their own: what ends them, what survives, what is told."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import sqlite3
import sys
import time
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa
from serving_jobs import children_of_jobs

from mataserver import Unavailable, run_process
from mataserver_database import Database, NewerSchemaError
from mataserver_jobs import process_identity
from mataserver_jobs.leases import LEASE_SECONDS
from mataserver_jobs.runner import LocalRunner
from mataserver_jobs.store import Store
from mataserver_jobs.table import SCHEMA
from mataserver_jobs.webhooks import Webhooks

pytestmark = pytest.mark.long

HERE = Path(__file__).parent


@contextlib.asynccontextmanager
async def running(queue, kinds, folder, **options):
    """Run a runner until the context ends."""
    runner = LocalRunner(queue, kinds, folder / "jobs", run_process, **options)
    task = asyncio.create_task(runner.run())
    try:
        yield runner
    finally:
        await runner.close()
        await task


async def ended(queue, job, seconds=30.0):
    """Wait for a job's end."""
    async with asyncio.timeout(seconds):
        while not (record := await queue.get(job.id)).ended:
            await asyncio.sleep(0.02)
    return record


async def test_a_job_runs(queue, kinds, tmp_path):
    """A job's progress moves within its stage, its result and its files are kept."""
    job = await queue.submit("count", "ada", {"to": 150})
    seen = []
    async with running(queue, kinds, tmp_path):
        while not (record := await queue.get(job.id)).ended:
            seen.append(record.progress)
            await asyncio.sleep(0.02)
    assert record.result == {"counted": 150, "attempt": 1}
    assert (record.state, record.progress) == ("done", 100.0)
    assert seen == sorted(seen)
    assert any(10 < progress < 90 for progress in seen)
    steps = (tmp_path / "jobs" / job.id / "output" / "steps").read_text().split()
    assert steps == [str(number) for number in range(150)]
    assert record.bytes_used > 0


async def test_what_hinders_work_is_logged_once(queue, kinds, tmp_path, caplog, monkeypatch):
    """And only while a job waits: a small disk that is always nearly full is no news."""
    looks, asked, room, next_kind = [], [], [False], queue.next_kind

    async def noted_next_kind(names):
        asked.append(names)
        return await next_kind(names)

    monkeypatch.setattr(queue, "next_kind", noted_next_kind)

    async def looked(runner, where, times):
        async with asyncio.timeout(30):
            while len(where) < times:
                runner.wake()
                await asyncio.sleep(0.01)

    def has_room():
        looks.append(room[0])
        return room[0]

    async with running(queue, kinds, tmp_path, has_room=has_room) as runner:
        await looked(runner, asked, 3)
        assert (looks, caplog.messages) == ([], [])
        job = await queue.submit("count", "ada", {"to": 1})
        await looked(runner, looks, 3)
        room[0] = True
        runner.wake()
        await ended(queue, job)
        room[0] = False
        await queue.submit("count", "ada", {"to": 1})
        await looked(runner, looks, len(looks) + 3)
    hindrances = [text for text in caplog.messages if text.startswith("no work")]
    assert hindrances == ["no work is taken now: the disk is nearly full"] * 2


async def test_a_database_that_only_reads_is_told_once(queue, kinds, tmp_path, caplog, monkeypatch):
    """Leases and jobs that wait can be read, and no job be taken: one line for all looks."""
    looks = []

    async def claim(*_):
        looks.append(None)
        raise Unavailable("The database is read-only")

    monkeypatch.setattr(queue, "claim", claim)
    await queue.submit("count", "ada", {"to": 1})
    async with running(queue, kinds, tmp_path) as runner, asyncio.timeout(30):
        while len(looks) < 4:
            runner.wake()
            await asyncio.sleep(0.01)
    hindrances = [text for text in caplog.messages if text.startswith("no work")]
    assert hindrances == ["no work is taken now: The database is read-only"]


async def test_jobs_of_newer_servers(queue, kinds, tmp_path, caplog):
    """A server that still runs when a newer one has migrated the tables takes no more of its work.

    Once the tables are its own again it does.
    """
    database, webhooks = queue._database, Webhooks(queue._database)

    async def migrated(version):
        async with database.begin() as connection:
            change = "UPDATE jobs_version SET version_num = :version"
            await connection.execute(sa.text(change), {"version": version})

    job = await queue.submit("count", "ada", {"to": 1})
    await migrated("9999")
    with pytest.raises(NewerSchemaError):
        await webhooks.claim()
    async with running(queue, kinds, tmp_path) as runner, asyncio.timeout(30):
        while "no work is taken now" not in caplog.text:
            runner.wake()
            await asyncio.sleep(0.01)
        assert "The database holds jobs 9999, newer than" in caplog.text
        assert (await queue.get(job.id)).state == "queued"
        await migrated(SCHEMA.head)
        runner.wake()
        assert (await ended(queue, job)).state == "done"


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("refuse", "there is no picture in it"),
        ("full", "The disk is full; restart the job once there is room"),
        ("raise", "Its process died 3 times: an error in its code: RuntimeError"),
        ("segfault", "Its process died 3 times: killed by SIGSEGV"),
        ("exit", "Its process died 3 times: it ended with status 0 and no result"),
    ],
)
async def test_failures(queue, kinds, tmp_path, how, error):
    """A refusal or a full disk is the end; a death is tried again, and its reason is told."""
    job = await queue.submit("misbehave", "ada", {"how": how})
    async with running(queue, kinds, tmp_path):
        record = await ended(queue, job)
    assert (record.state, record.error) == ("failed", error)
    assert "secret" not in record.error
    if how == "raise":
        assert "secret detail" in (tmp_path / "jobs" / job.id / "log").read_text()


async def test_a_second_attempt_succeeds(queue, kinds, tmp_path):
    """A death that does not come again costs an attempt and no more."""
    job = await queue.submit("misbehave", "ada", {"how": "once"})
    async with running(queue, kinds, tmp_path):
        record = await ended(queue, job)
    assert (record.state, record.deaths) == ("done", 1)


async def test_prints_are_no_messages(queue, kinds, tmp_path):
    """What a library prints to standard output goes to the log."""
    job = await queue.submit("misbehave", "ada", {"how": "print"})
    async with running(queue, kinds, tmp_path):
        assert (await ended(queue, job)).state == "done"


@pytest.mark.parametrize("kind", ["count", "misbehave"])
async def test_cancel(queue, kinds, tmp_path, kind):
    """A job stops when it is told to, also one that does not listen, and its slot is free."""
    spec = {"to": 10_000} if kind == "count" else {"how": "deaf"}
    job = await queue.submit(kind, "ada", spec)
    after = await queue.submit("count", "ada", {"to": 1})
    async with running(queue, kinds, tmp_path):
        while (await queue.get(job.id)).stage != "counting":
            await asyncio.sleep(0.02)
        await queue.cancel(job.id)
        record = await ended(queue, job)
        assert (await ended(queue, after)).state == "done"
    assert record.state == "cancelled"
    assert 10 <= record.progress < 90


async def test_slots(queue, kinds, tmp_path):
    """No more jobs run at once than there are slots."""
    for _ in range(4):
        await queue.submit("count", "ada", {"to": 30})
    most = 0
    async with running(queue, kinds, tmp_path, slots=2):
        while True:
            states = [each.state for each in (await queue.find())[0]]
            most = max(most, states.count("running"))
            if set(states) == {"done"}:
                break
            await asyncio.sleep(0.02)
    assert most == 2


async def test_a_shutdown_interrupts_and_the_next_server_goes_on(queue, kinds, tmp_path):
    """What was counted stays counted; the interruption is no attempt."""
    job = await queue.submit("count", "ada", {"to": 100})
    steps = tmp_path / "jobs" / job.id / "output" / "steps"
    async with running(queue, kinds, tmp_path):
        while not steps.exists() or len(steps.read_text().split()) < 20:
            await asyncio.sleep(0.02)
    record = await queue.get(job.id)
    assert (record.state, record.attempt) == ("queued", 1)
    async with running(queue, kinds, tmp_path):
        assert (await ended(queue, job)).result == {"counted": 100, "attempt": 1}
    assert steps.read_text().split() == [str(number) for number in range(100)]


SERVER = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import job_functions
from msgspec import Struct
from mataserver import run_process
from mataserver_database import Database, NewerSchemaError
from mataserver_jobs.kinds import JobKind
from mataserver_jobs.runner import LocalRunner
from mataserver_jobs.store import Store

async def main():
    folder = Path(sys.argv[2])
    kinds = {"count": JobKind(name="count", run=job_functions.count, spec=Struct)}
    await LocalRunner(Store(Database(folder)), kinds, folder / "jobs", run_process).run()

asyncio.run(main())
"""


async def test_kill_9_of_the_server(queue, tmp_path):
    """Killed three times at some moment, the next server goes on with the step under way."""
    job = await queue.submit("count", "ada", {"to": 150})
    steps = tmp_path / "jobs" / job.id / "output" / "steps"
    counted = 0
    for _ in range(3):
        server = await asyncio.create_subprocess_exec(
            sys.executable, "-c", SERVER, str(HERE), str(tmp_path)
        )
        begun = time.monotonic()
        while not steps.exists() or len(steps.read_text().split()) < counted + 20:
            await asyncio.sleep(0.01)
            assert time.monotonic() - begun < 20
        children = psutil.Process(server.pid).children()
        server.send_signal(signal.SIGKILL)
        await server.wait()
        psutil.wait_procs(children, 5)
        counted = len(steps.read_text().split())
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVER, str(HERE), str(tmp_path)
    )
    record = await ended(queue, job)
    server.send_signal(signal.SIGKILL)
    await server.wait()
    assert (record.state, record.losses, record.deaths) == ("done", 3, 0)
    numbers = [int(line) for line in steps.read_text().split()]
    assert sorted(set(numbers)) == list(range(150))
    assert len(numbers) <= 150 + 3


def test_who_is_dead():
    """A process that would be seen here is known to be gone; of others one cannot know.

    Two machines, or two containers of one, may have the same name.
    """
    mine = process_identity.current()
    assert not process_identity.is_dead(mine)
    head, _, started = mine.rpartition(":")
    place, _, pid = head.rpartition(":")
    assert pid == str(os.getpid())
    assert process_identity.is_dead(f"{head}:{int(started) + 1}")
    assert process_identity.is_dead(f"{place}:{2**22 + 1}:{started}")
    host, _, namespace = place.rpartition(":")
    boot, _, pids = namespace.partition(".")
    for other in (f"another-boot.{pids}", f"{boot}.1", boot, "another-boot"):
        assert not process_identity.is_dead(f"{host}:{other}:{2**22 + 1}:{started}")
    assert process_identity.is_dead(f"renamed:{namespace}:{2**22 + 1}:{started}")
    assert not process_identity.is_dead("another-box/1/1")


@pytest.mark.parametrize("days", [1, -1])
async def test_clocks_that_differ(kinds, tmp_path, clock, days, monkeypatch):
    """A server whose clock is a day off, or was set, takes no job of one that lives."""
    databases = [Database(tmp_path), Database(tmp_path)]
    for each, ahead in zip(databases, (0.0, days * 86_400), strict=True):
        await each.migrate(SCHEMA)
        monkeypatch.setattr(each, "now", lambda ahead=ahead: sa.literal(clock.now + ahead))
    ours, theirs = map(Store, databases)
    job = await ours.submit("count", "ada", {"to": 60})
    async with running(ours, kinds, tmp_path), running(theirs, {}, tmp_path) as other:
        while not (record := await ours.get(job.id)).ended:
            clock.now += 0.001
            other.wake()  # it looks for lost leases
            await asyncio.sleep(0.02)
    for each in databases:
        await each.close()
    assert (record.state, record.losses) == ("done", 0)


async def test_a_lock_that_outlasts_the_lease(kinds, tmp_path, clock, monkeypatch):
    """A job whose lease ran out while the database was locked is still its server's: done, once."""
    database = Database(tmp_path, timeout=0.2)
    await database.migrate(SCHEMA)
    monkeypatch.setattr(database, "now", lambda: sa.literal(clock.now))
    queue = Store(database)
    job = await queue.submit("count", "ada", {"to": 60})
    async with running(queue, kinds, tmp_path) as runner:
        async with asyncio.timeout(30):
            while (await queue.get(job.id)).progress <= 0:
                await asyncio.sleep(0.02)
        holder = sqlite3.connect(tmp_path / "mataserver.db", isolation_level=None)
        holder.execute("BEGIN EXCLUSIVE")
        clock.now += 10 * LEASE_SECONDS
        async with asyncio.timeout(30):
            while children_of_jobs():
                await asyncio.sleep(0.02)
        holder.execute("ROLLBACK")
        holder.close()
        runner.wake()  # it looks for leases that are over, as it does every few seconds
        record = await ended(queue, job)
    await database.close()
    assert (record.state, record.losses, record.deaths) == ("done", 0, 0)
    assert record.result == {"counted": 60, "attempt": 1}


class Slow(Store):
    """A queue whose database takes its time; ``cut`` counts the statements that were cut off."""

    cut = 0

    async def renew(self, record):
        try:
            await asyncio.sleep(2.0)
        except asyncio.CancelledError:
            self.cut += 1
            raise
        return await super().renew(record)


async def test_a_statement_is_never_cut_off(kinds, tmp_path):
    """A job that ends while its lease is being renewed waits for that: the lock would stay."""
    database = Database(tmp_path)
    await database.migrate(SCHEMA)
    queue = Slow(database)
    job = await queue.submit("count", "ada", {"to": 1})
    async with running(queue, kinds, tmp_path):
        assert (await ended(queue, job)).state == "done"
    await database.close()
    assert queue.cut == 0


@pytest.mark.parametrize("told", [lambda result: result["absent"], lambda _: None])
async def test_a_kind_that_has_no_last_word(queue, kinds, tmp_path, told):
    """What is done is done, in one attempt: the work is not done again for want of a sentence."""
    chosen = {"count": dataclasses.replace(kinds["count"], told=told)}
    job = await queue.submit("count", "ada", {"to": 3})
    async with running(queue, chosen, tmp_path):
        record = await ended(queue, job)
    assert (record.state, record.message, record.attempt) == ("done", "Done.", 1)
