"""A server that cannot renew a job's lease: two processes never work in one job's folder."""

from __future__ import annotations

import asyncio
import contextlib

import psutil
import pytest
from serving_jobs import children_of_jobs

from mataserver import Unavailable, run_process
from mataserver_database import Database
from mataserver_jobs import attempt
from mataserver_jobs.runner import LocalRunner
from mataserver_jobs.store import Store
from mataserver_jobs.table import SCHEMA


class CutOff(Store):
    """A queue whose database is ``away`` for this server alone."""

    away = False

    async def renew(self, record):
        if self.away:
            raise Unavailable("away")
        return await super().renew(record)


@pytest.fixture
async def cut_off(tmp_path):
    """The queue."""
    database = Database(tmp_path)
    await database.migrate(SCHEMA)
    yield CutOff(database)
    await database.close()


@contextlib.asynccontextmanager
async def held(store, kinds, folder, monkeypatch, to):
    """Run a job until its process is stopped for want of a lease; give the job."""
    monkeypatch.setattr(attempt, "HOLD_SECONDS", 0.5)
    monkeypatch.setattr(attempt, "RENEW_SECONDS", 0.1)
    job = await store.submit("count", "ada", {"to": to})
    runner = LocalRunner(store, kinds, folder / "jobs", run_process)
    task = asyncio.create_task(runner.run())
    try:
        async with asyncio.timeout(30):
            while (await store.get(job.id)).progress <= 0:
                await asyncio.sleep(0.02)
            store.away = True
            while {each.status() for each in children_of_jobs()} != {psutil.STATUS_STOPPED}:
                await asyncio.sleep(0.02)
        yield job
    finally:
        await runner.close()
        await task


async def test_it_goes_on_once_the_lease_is_renewed(cut_off, kinds, tmp_path, monkeypatch):
    """A database that was away costs no attempt, and no step is done twice."""
    async with held(cut_off, kinds, tmp_path, monkeypatch, 300) as job:
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
    async with held(cut_off, kinds, tmp_path, monkeypatch, 100_000) as job:
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
