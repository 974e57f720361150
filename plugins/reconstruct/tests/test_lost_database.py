"""Two servers on one database; one that is locked, or gone, while a job runs and at each route."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3

import asyncpg
import pytest
from apart import standing_still
from serving_reconstruct import QUICK, asking, packed, session

from mataserver_database.testing import new_database

pytestmark = [pytest.mark.timeout(300), pytest.mark.long]

BUSY = (503, {"detail": "The database does not answer now"})


@pytest.fixture(scope="module")
def photographs(strip):
    """A ZIP of six photographs of a scene."""
    return packed(strip)


async def test_two_servers_share_the_work(photographs, tmp_path):
    """Whichever of two takes an archive, it is done and noted once, and either hands it out."""
    async with asking(tmp_path) as here, asking(tmp_path) as there:
        jobs = [await (here, there)[at % 2].upload(photographs, **QUICK) for at in range(2)]
        for job in jobs:
            told = [await each.ended(job) for each in (here, there)]
            assert told[0] == told[1]
            assert (told[0]["stage"], told[0]["registration_rate"]) == ("success", 1.0)
            assert (await here("GET", f"/v1/jobs/{job}"))[1]["attempt"] == 1
            for path in (f"/clusters/{job}", f"/jobs/{job}/insights", f"/download/jobs/{job}/csv"):
                assert await here("GET", path) == await there("GET", path)
        history = (await there("GET", "/drift/history"))[1].splitlines()
        assert len(history) == len(jobs)


async def every_route(ask, archive, job):
    """Return what each route that asks the database answers, by its path."""
    gets = ("/status/{}", "/jobs/{}", "/clusters/{}", "/jobs/{}/insights", "/jobs/{}/report")
    gets += ("/download/jobs/{}", "/download/jobs/{}/csv", "/download/jobs/{}/result.json")
    found = {path: await ask("GET", path.format(job)) for path in (*gets, "/drift/history")}
    found["/upload"] = await ask.send(archive, **QUICK)
    found["/drift"] = await ask.send(archive, "/drift")
    async with session(ask.served, "root-key") as root:
        found["/drift/trigger-retrain"] = await root("POST", "/drift/trigger-retrain")
    return found


@contextlib.asynccontextmanager
async def matching(ask, folder, job):
    """Have a job stand still when it matches, and the server know it; give what lets it go on."""
    with contextlib.ExitStack() as stack:
        stopped = standing_still(os.getpid(), folder / "jobs" / job, "matching")
        child = await asyncio.to_thread(stack.enter_context, stopped)
        async with asyncio.timeout(60):
            while (await ask("GET", f"/status/{job}"))[1]["stage"] != "matching":
                await asyncio.sleep(0.02)
        yield child.resume


@contextlib.asynccontextmanager
async def without(server, name):
    """Have a database of PostgreSQL refuse everybody, and end what was connected."""
    control = await asyncpg.connect(server)
    try:
        await control.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1"
        await control.execute(ended, name)
        yield
        await control.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
    finally:
        await control.close()


async def test_a_database_that_is_gone(photographs, postgres, tmp_path):
    """Each route is 503 with a sentence; the job under way goes on, and ends once it is back."""
    url = await new_database(postgres, "reconstruct_gone")
    airflow = {"airflow_url": "http://127.0.0.1:9", "airflow_token": "t"}
    async with asking(tmp_path, database={"url": url}, reconstruct=airflow) as ask:
        await ask.ready()
        first = await ask.upload(photographs, **QUICK)
        await ask.ended(first)
        job = await ask.upload(photographs, **QUICK)
        before = sorted(path.name for path in (tmp_path / "jobs").iterdir())
        async with matching(ask, tmp_path, job) as go_on, without(postgres, "reconstruct_gone"):
            go_on()
            told = await every_route(ask, photographs, first)
            assert set(map(str, told.values())) == {str(BUSY)}, told
            assert (await ask("GET", "/health"))[0] == 200
            assert (await ask("GET", "/metrics"))[0] == 200
            assert sorted(path.name for path in (tmp_path / "jobs").iterdir()) == before
        async with asyncio.timeout(60):
            while (await ask("GET", f"/status/{job}"))[0] != 200:
                await asyncio.sleep(0.1)
        done = await ask.ended(job)
        assert (done["stage"], done["registration_rate"]) == ("success", 1.0)
        assert (await ask("GET", f"/v1/jobs/{job}"))[1]["attempt"] == 1


@contextlib.asynccontextmanager
async def locked(file):
    """Hold the one transaction of a file that may write."""
    other = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    with contextlib.closing(other):
        await asyncio.to_thread(other.execute, "BEGIN IMMEDIATE")  # the server's ends meanwhile
        yield
        other.execute("ROLLBACK")


async def test_a_database_that_is_locked(photographs, tmp_path):
    """What writes is 503 with a sentence, what reads is answered, and the job goes on."""
    async with asking(tmp_path, database={"timeout": 0.3}) as ask:
        await ask.ready()
        first = await ask.upload(photographs, **QUICK)
        await ask.ended(first)
        job = await ask.upload(photographs, **QUICK)
        async with matching(ask, tmp_path, job) as go_on, locked(tmp_path / "mataserver.db"):
            go_on()
            told = await every_route(ask, photographs, first)
        refused = {path: answer for path, answer in told.items() if answer[0] != 200}
        assert set(refused) == {"/upload", "/drift", "/drift/trigger-retrain"}, refused
        assert all(answer == BUSY for answer in refused.values()), refused
        done = await ask.ended(job)
        assert (done["stage"], done["registration_rate"]) == ("success", 1.0)
        assert (await ask("GET", f"/v1/jobs/{job}"))[1]["attempt"] == 1


async def test_a_clock_that_is_set_back(photographs, tmp_path):
    """A running job whose lease lies far in the future, as after such a clock, is begun anew."""
    async with asking(tmp_path) as ask:
        done = await ask.upload(photographs, **QUICK)
        await ask.ended(done)
    with contextlib.closing(sqlite3.connect(tmp_path / "mataserver.db")) as other, other:
        other.execute(
            "UPDATE jobs SET state = 'running', stage = 'matching', holder = 'another-box/1/1', "
            "created_at = created_at + 86400, lease_until = created_at + 86400, "
            "started_at = started_at + 86400, finished_at = NULL, result = NULL"
        )
    async with asking(tmp_path) as ask:
        shown = await ask.ended(done)
        assert (shown["stage"], shown["registration_rate"]) == ("success", 1.0)
        history = (await ask("GET", "/drift/history"))[1].splitlines()
        assert len(history) == 1
