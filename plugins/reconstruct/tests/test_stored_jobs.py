"""Jobs that another version of the server stored."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest
import sqlalchemy as sa
from serving_reconstruct import QUICK, asking, packed
from test_bad_uploads import picture

from mataserver_database import Database
from mataserver_jobs.table import JOBS

pytestmark = [pytest.mark.timeout(200), pytest.mark.long]
NAME = "כנסייה\u200f \ufeff\x85"
"""A name that uploads could have before those of the writing's direction were refused."""


async def stored(folder, job, **values):
    """Change what the database holds of a job while no server runs."""
    database = Database(folder)
    try:
        async with database.begin() as connection:
            await connection.execute(sa.update(JOBS).where(JOBS.c.id == job).values(**values))
    finally:
        await database.close()


async def queued(folder, *names):
    """Have a server take an archive for each name that it cannot begin; return the jobs."""
    one = packed({"a.jpg": picture()})
    async with asking(folder, jobs={"slots": 0}) as ask:
        found = []
        for name in names:
            job = await ask.upload(one, dataset_name=name, **QUICK)
            found.append((job, (await ask("GET", f"/v1/jobs/{job}"))[1]["spec"]))
    return found


async def test_a_name_that_is_no_longer_taken(tmp_path):
    """Its job runs, is recorded, shown, and restarted: only a new upload is refused."""
    ((job, spec),) = await queued(tmp_path, "church")
    await stored(tmp_path, job, spec=json.dumps({**spec, "dataset_name": NAME}))
    async with asking(tmp_path) as ask:
        assert (await ask.ended(job))["stage"] == "success"
        assert (await ask("GET", f"/jobs/{job}/insights"))[0] == 200
        (line,) = (await ask("GET", "/drift/history"))[1].splitlines()
        assert json.loads(line)["dataset_name"] == NAME
        status, again = await ask("POST", f"/v1/jobs/{job}/restart", json={})
        assert (status, again["spec"]["dataset_name"]) == (202, NAME)
        assert (await ask.ended(job))["stage"] == "success"
        status, answer = await ask.send(packed({"a.jpg": picture()}), dataset_name=NAME)
        assert (status, answer["detail"][:13]) == (422, "dataset_name:")
        assert "the writing's direction" in answer["detail"]


async def test_one_that_died_before_its_first_report(tmp_path):
    """It waits again at the percent that was shown while its process started, and keeps it."""
    ((job, _),) = await queued(tmp_path, "church")
    await stored(tmp_path, job, started_at=1_714_300_005.0, deaths=1)
    async with asking(tmp_path, jobs={"slots": 0}) as ask:
        shown = (await ask("GET", f"/status/{job}"))[1]
        assert (shown["stage"], shown["progress"]) == ("queued", 10)
        status, _ = await ask("POST", f"/v1/jobs/{job}/cancel")
        shown = (await ask("GET", f"/status/{job}"))[1]
        assert (status, shown["stage"], shown["progress"]) == (202, "cancelled", 10)
        assert shown["message"] == "Cancelled."


async def test_one_that_cannot_be_recorded(tmp_path, caplog):
    """The log says so once, and those that end later are recorded; it is a job like others else."""
    (bad, _), (good, _) = await queued(tmp_path, "bad", "good")
    ended = {"state": "done", "stage": "done", "result": "{}", "finished_at": 1.0}
    await stored(tmp_path, bad, **ended)
    with caplog.at_level(logging.ERROR, "mataserver"):
        async with asking(tmp_path) as ask, asyncio.timeout(100):
            while good.encode() not in (await ask("GET", "/drift/history"))[1]:
                await asyncio.sleep(0.05)
            assert bad.encode() not in (await ask("GET", "/drift/history"))[1]
            assert (await ask("GET", f"/status/{bad}"))[1]["stage"] == "success"
            for path in ("clusters/{}", "jobs/{}/insights", "jobs/{}/report", "download/jobs/{}"):
                status, answer = await ask("GET", "/" + path.format(bad))
                assert (status, "restart the job" in answer["detail"]) == (409, True), answer
    assert caplog.text.count(f"job {bad} is not noted") == 1
