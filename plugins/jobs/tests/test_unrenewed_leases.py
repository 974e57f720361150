"""A server that cannot renew a job's lease: two processes never work in one job's folder."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import signal
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from serving_jobs import children_of_jobs

from mataserver import Unavailable, run_process
from mataserver_database import Database
from mataserver_database.testing import new_database
from mataserver_jobs import attempt, lease_guard, supervisor
from mataserver_jobs.attempt import Attempt
from mataserver_jobs.runner import LocalRunner
from mataserver_jobs.store import Store
from mataserver_jobs.supervisor import Supervisor
from mataserver_jobs.table import SCHEMA

pytestmark = pytest.mark.long


class CutOff(Store):
    """A queue whose database is ``away`` for this server alone."""

    away = False

    def __init__(self, database):
        super().__init__(database)
        self.refused = asyncio.Event()

    async def renew(self, record):
        if self.away:
            self.refused.set()
            raise Unavailable("away")
        return await super().renew(record)


@pytest.fixture
async def cut_off(tmp_path, postgres):
    """The queue, in a database that servers share."""
    url = await new_database(postgres, f"leases_{uuid.uuid4().hex}")
    database = Database(tmp_path, url)
    await database.migrate(SCHEMA)
    store = CutOff(database)
    store.url = url
    yield store
    await database.close()


@contextlib.asynccontextmanager
async def unrenewed(store, kinds, folder, monkeypatch, to):
    """Run a job until its lease cannot be renewed; give the job and its runner."""
    monkeypatch.setattr(attempt, "HOLD_SECONDS", 0.5)
    monkeypatch.setattr(attempt, "RENEW_SECONDS", 0.1)
    job = await store.submit("count", "ada", {"to": to})
    runner = LocalRunner(store, kinds, folder / "jobs", run_process)
    task = asyncio.create_task(runner.run())
    try:
        async with asyncio.timeout(30):
            while (await store.get(job.id)).progress <= 10:  # its first step is done
                await asyncio.sleep(0.02)
            store.away = True
            await store.refused.wait()
        yield job, runner
    finally:
        await runner.close()
        await task


@contextlib.asynccontextmanager
async def held(store, kinds, folder, monkeypatch, to):
    """Run a job until its process is stopped for want of a lease; give the job and its runner."""
    async with unrenewed(store, kinds, folder, monkeypatch, to) as (job, runner):
        async with asyncio.timeout(30):
            while {each.status() for each in children_of_jobs()} != {psutil.STATUS_STOPPED}:
                await asyncio.sleep(0.02)
        yield job, runner


async def test_it_goes_on_once_the_lease_is_renewed(cut_off, kinds, tmp_path, monkeypatch):
    """A database that was away costs no attempt, and no step is done twice."""
    async with held(cut_off, kinds, tmp_path, monkeypatch, 300) as (job, _):
        cut_off.away = False
        async with asyncio.timeout(30):
            while not (record := await cut_off.get(job.id)).ended:
                await asyncio.sleep(0.02)
    assert (record.state, record.result) == ("done", {"counted": 300, "attempt": 1})
    steps = (tmp_path / "jobs" / job.id / "output" / "steps").read_text().split()
    assert steps == [str(number) for number in range(300)]


async def test_it_ends_where_another_server_has_the_job(cut_off, kinds, tmp_path, monkeypatch):
    """It has done nothing more in the folder that the other works in by then."""
    steps = tmp_path / "jobs"
    async with held(cut_off, kinds, tmp_path, monkeypatch, 100_000) as (job, _):
        steps = steps / job.id / "output" / "steps"
        before = steps.read_bytes()
        other = Store(cut_off._database)
        assert await other.recover(await other.leases()) == 1
        claimed = await other.claim("another", ["count"])
        cut_off.away = False
        async with asyncio.timeout(30):
            while children_of_jobs():
                await asyncio.sleep(0.02)
        assert steps.read_bytes() == before
        assert await other.finish(claimed, "of the other")
    assert (await cut_off.get(job.id)).result == "of the other"


async def test_a_held_process_does_not_delay_the_servers_end(cut_off, kinds, tmp_path, monkeypatch):
    """It could not take a word to stop: its time to do so is not waited for."""
    slow = {"count": dataclasses.replace(kinds["count"], grace=60.0)}
    async with held(cut_off, slow, tmp_path, monkeypatch, 100_000) as (job, runner):
        async with asyncio.timeout(30):
            await runner.close()
        assert not children_of_jobs()
    assert (await cut_off.get(job.id)).state == "queued"


async def test_a_file_of_one_machine_is_no_others(tmp_path, kinds, monkeypatch):
    """What keeps a server from SQLite's file keeps all from it: the job goes on."""
    database = Database(tmp_path)
    await database.migrate(SCHEMA)
    store = CutOff(database)
    async with unrenewed(store, kinds, tmp_path, monkeypatch, 200) as (job, _):
        async with asyncio.timeout(30):
            while not (record := await store.get(job.id)).ended:
                await asyncio.sleep(0.02)
    await database.close()
    assert (record.state, record.result) == ("done", {"counted": 200, "attempt": 1})


def stand_still():
    """Block this server, which does nothing more, until its job's process has stopped itself."""
    end = time.monotonic() + 30
    while {each.status() for each in children_of_jobs()} != {psutil.STATUS_STOPPED}:
        assert time.monotonic() < end
        time.sleep(0.02)


async def test_a_process_stops_while_its_server_stands_still(cut_off, kinds, tmp_path, monkeypatch):
    """It goes on once the server does and has renewed the lease; no attempt is lost."""
    async with unrenewed(cut_off, kinds, tmp_path, monkeypatch, 300) as (job, _):
        cut_off.away = False
        for _ in range(2):
            stand_still()
            before = (await cut_off.get(job.id)).progress
            async with asyncio.timeout(30):
                while (await cut_off.get(job.id)).progress <= before:
                    await asyncio.sleep(0.02)
        async with asyncio.timeout(30):
            while not (record := await cut_off.get(job.id)).ended:
                await asyncio.sleep(0.02)
    assert (record.state, record.result) == ("done", {"counted": 300, "attempt": 1})


async def test_a_server_that_stood_still_has_nothing_done_beside_the_next(
    cut_off, kinds, tmp_path, monkeypatch
):
    """Its process is ended, stopped as it is."""

    async def take_over():
        database = Database(tmp_path, cut_off.url)
        other = Store(database)
        assert await other.recover(await other.leases()) == 1
        assert await other.claim("another", ["count"])
        await database.close()

    async with unrenewed(cut_off, kinds, tmp_path, monkeypatch, 100_000) as (job, _):
        cut_off.away = False
        stand_still()
        steps = tmp_path / "jobs" / job.id / "output" / "steps"
        before = steps.read_bytes()
        with ThreadPoolExecutor(1) as pool:
            pool.submit(asyncio.run, take_over()).result()
        async with asyncio.timeout(30):
            while children_of_jobs():
                await asyncio.sleep(0.02)
        assert steps.read_bytes() == before


class Process:
    """A process that says nothing until it ends; ``signals`` it was sent."""

    def __init__(self):
        self.signals, self.written = [], []
        self.ending = asyncio.Event()
        self.has_ended = False

    def signal(self, number):
        self.signals.append(number)

    def write(self, data):
        self.written.append(data)

    async def messages(self, _kind):
        await self.ending.wait()
        for message in ():
            yield message


class Renewals:
    """A shared queue that answers a renewal once ``answering`` is set."""

    is_shared = True

    def __init__(self, record):
        self.record = record
        self.asked, self.answering = asyncio.Event(), asyncio.Event()

    async def renew(self, _record):
        self.asked.set()
        await self.answering.wait()
        return self.record


@pytest.fixture
async def followed(cut_off, kinds):
    """An attempt, its process, and the queue that it asks."""
    record, process = await cut_off.submit("count", "ada", {"to": 1}), Process()
    renewals = Renewals(record)
    made = Attempt(renewals, record, kinds["count"], process, asyncio.Event(), None)
    return made, process, renewals


async def test_nobody_is_stopped_after_its_end(followed):
    """A renewal that is answered after it must have nobody stopped: the id may be another's."""
    made, process, renewals = followed
    running = asyncio.create_task(made.run(lease_guard.now()))
    await renewals.asked.wait()
    process.ending.set()
    process.has_ended = True
    await made._finished.wait()
    renewals.answering.set()
    await running
    assert made._hold_timer.cancelled()
    made._hold()  # one that was due in that moment
    assert process.signals == []


async def test_the_time_counts_from_the_last_renewal(followed):
    """A process that took long to start is stopped at once, until the lease is renewed."""
    made, process, renewals = followed
    before = lease_guard.now() - attempt.HOLD_SECONDS
    running = asyncio.create_task(made.run(before))
    await renewals.asked.wait()
    assert process.signals == [signal.SIGSTOP]
    renewals.answering.set()
    async with asyncio.timeout(30):
        while process.signals != [signal.SIGSTOP, signal.SIGCONT]:
            await asyncio.sleep(0.01)
    process.ending.set()
    await running


async def test_a_machine_that_is_suspended_during_a_renewal(followed, monkeypatch):
    """What was renewed before that is over: the process stops until the lease is renewed again."""
    made, process, renewals = followed
    renewed = lease_guard.now()
    made.promise(renewed)
    running = asyncio.create_task(made.run(renewed))
    await renewals.asked.wait()
    really = lease_guard.now
    monkeypatch.setattr(lease_guard, "now", lambda: really() + 3_600.0)
    assert made.promise(renewed).seconds < -3_000.0
    renewals.answering.set()  # it was asked for before the machine was suspended
    async with asyncio.timeout(30):
        while process.signals != [signal.SIGSTOP, signal.SIGCONT]:
            await asyncio.sleep(0.01)
            made.wake()
    process.ending.set()
    await running


async def test_one_that_stops_itself_just_as_it_is_told(followed, monkeypatch):
    """It is continued with the next renewal: no later one would find that its time was over."""
    made, process, renewals = followed
    monkeypatch.setattr(attempt, "RENEW_SECONDS", 0.01)
    renewals.answering.set()
    renewed = lease_guard.now()
    made.promise(renewed)
    running = asyncio.create_task(made.run(renewed))
    async with asyncio.timeout(30):
        while len(process.signals) < 2:
            await asyncio.sleep(0.01)
    assert set(process.signals) == {signal.SIGCONT}
    assert len(process.written) >= 2
    process.ending.set()
    await running


@pytest.mark.parametrize("away", [False, True])
async def test_a_process_that_takes_long_to_start(cut_off, kinds, tmp_path, monkeypatch, away):
    """Meanwhile the lease is renewed, and when that was last is known."""
    monkeypatch.setattr(supervisor, "RENEW_SECONDS", 0.01)
    await cut_off.submit("count", "ada", {"to": 1})
    record = await cut_off.claim("us", ["count"])
    starting = Supervisor(
        cut_off, kinds, tmp_path, None, asyncio.Event(), tokens=None, transfers_files=False
    )
    cut_off.away = away
    async with starting._keep_lease(record, 0.0) as renewed, asyncio.timeout(30):
        if away:
            await cut_off.refused.wait()
        while not away and not renewed():
            await asyncio.sleep(0.01)
    assert (renewed() == 0.0) is away
