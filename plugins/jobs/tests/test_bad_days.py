"""What may go wrong around jobs: the database, a second server, the disk, a kill at any moment."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3

import av
import numpy as np
import pytest
import sqlalchemy as sa
from films import archive, picture, video
from serving_jobs import apart, asking, children_of_jobs, lines, sent

from mataserver import MataError
from mataserver_database import Database
from mataserver_database.testing import new_database, postgres_server
from mataserver_jobs.disk import is_full
from mataserver_jobs.table import SCHEMA
from mataserver_jobs.video_parts import VideoParts

pytestmark = pytest.mark.long

FRAMES = 60
GONE = "The database's file was removed or replaced: restart the server"
SLOW = '{"seconds": 0.05}'
"""A frame's time with which a job takes longer than to hear of its cancellation."""


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request):
    """The URL of a database: None for SQLite."""
    if request.param == "sqlite":
        return None
    server = request.getfixturevalue("postgres")
    name = f"bad_{os.getpid()}_{abs(hash(request.node.name)) % 10**8}"
    return asyncio.run(new_database(server, name))


def settings(url):
    """The settings of the database."""
    return {"url": url} if url else {}


async def refusal(folder, **more):
    """Return why a server does not start."""
    with pytest.raises(MataError) as told:
        async with asking(folder, **more):
            pass
    return str(told.value)


async def test_a_newer_database(tmp_path, url):
    """A server that is older than the tables does not start, says so, and changes nothing."""
    async with asking(tmp_path, database=settings(url)):
        pass
    database = Database(tmp_path, url)
    async with database.begin() as connection:
        await connection.execute(sa.text("UPDATE jobs_version SET version_num = '9999'"))
    told = await refusal(tmp_path, database=settings(url))
    assert told.startswith(f"The database holds jobs 9999, newer than {SCHEMA.head}")
    async with database.read() as connection:
        found = await connection.scalar(sa.text("SELECT version_num FROM jobs_version"))
    await database.close()
    assert found == "9999"


async def test_a_database_that_is_locked(tmp_path):
    """A server that finds its database locked does not start, and says so within the timeout."""
    tmp_path.mkdir(exist_ok=True)
    holder = sqlite3.connect(tmp_path / "mataserver.db", isolation_level=None)
    holder.execute("CREATE TABLE other (id INTEGER)")
    holder.execute("BEGIN EXCLUSIVE")
    told = await refusal(tmp_path, database={"timeout": 0.3})
    assert told == "The database does not answer now"
    holder.execute("ROLLBACK")
    holder.close()
    async with asking(tmp_path) as ask:
        await ask.ended(await ask.count(1))


async def test_a_database_whose_file_is_removed(tmp_path):
    """What asks for jobs is 503 and takes none; the job under way ends once the file is back."""
    async with asking(tmp_path) as ask:
        job = await ask.count(150)
        await ask.until(job, lambda shown: shown["progress"] > 0)
        (tmp_path / "mataserver.db").rename(tmp_path / "away")
        for method, path in (("GET", "/v1/jobs"), ("POST", f"/v1/jobs/{job}/cancel")):
            status, told = await ask(method, path)
            assert (status, told["detail"]) == (503, GONE)
        assert (await ask("POST", "/lab/count", json={"to": 1}))[0] == 503
        (tmp_path / "away").rename(tmp_path / "mataserver.db")
        shown = await ask.ended(job)
        assert (shown["state"], shown["attempt"]) == ("done", 1)
        assert (await ask("GET", "/v1/jobs"))[1]["total"] == 1


async def until_none(found, seconds=30.0):
    """Wait until something finds nothing any more."""
    async with asyncio.timeout(seconds):
        while found():
            await asyncio.sleep(0.02)


async def steps(ask, job):
    """Return the steps that a job has counted."""
    return [int(word) for word in (await ask("GET", f"/v1/jobs/{job}/files/steps"))[1].split()]


async def test_a_lock_that_is_held_while_a_job_runs(tmp_path):
    """What changes a job is 503; the job's end waits for the lock, and so does the next job."""
    async with asking(tmp_path, database={"timeout": 0.2}) as ask:
        job, next_one = await ask.count(100), await ask.count(2)
        await ask.until(job, lambda shown: shown["progress"] > 0)
        holder = sqlite3.connect(tmp_path / "mataserver.db", isolation_level=None)
        holder.execute("BEGIN EXCLUSIVE")
        await until_none(children_of_jobs)
        for method, path in (("POST", f"/v1/jobs/{job}/cancel"), ("DELETE", f"/v1/jobs/{job}")):
            status, told = await ask(method, path)
            assert (status, told["detail"]) == (503, "The database does not answer now")
        assert (await ask("POST", "/lab/count", json={"to": 1}))[0] == 503
        status, shown = await ask("GET", f"/v1/jobs/{job}")
        assert (status, shown["state"]) == (200, "running")
        holder.execute("ROLLBACK")
        holder.close()
        for each, to in ((job, 100), (next_one, 2)):
            shown = await ask.ended(each)
            assert (shown["state"], shown["attempt"]) == ("done", 1)
            assert await steps(ask, each) == list(range(to))
        assert (await ask("GET", "/v1/jobs"))[1]["total"] == 2


async def test_a_server_of_databases_that_is_gone_while_a_job_runs(tmp_path):
    """All that asks for jobs is 503; once it is back the job is done, once, and so is the next."""
    with postgres_server() as server:
        url = await new_database(server.url, "gone")
        async with asking(tmp_path, database={"url": url, "timeout": 1.0}) as ask:
            job, next_one = await ask.count(100), await ask.count(2)
            await ask.until(job, lambda shown: shown["progress"] > 0)
            await asyncio.to_thread(server.stop)
            await until_none(children_of_jobs)
            for method, path, sent_with in (
                ("GET", f"/v1/jobs/{job}", {}),
                ("POST", f"/v1/jobs/{job}/cancel", {}),
                ("POST", "/lab/count", {"json": {"to": 1}}),
            ):
                status, told = await ask(method, path, **sent_with)
                assert (status, told["detail"]) == (503, "The database does not answer now")
            assert (await ask("GET", "/v1/health"))[0] == 200
            await asyncio.to_thread(server.start)
            await ask.until_listed("/v1/jobs", lambda page: "total" in page, 30.0)
            for each, to in ((job, 100), (next_one, 2)):
                shown = await ask.ended(each)
                assert (shown["state"], shown["attempt"]) == ("done", 1)
                assert await steps(ask, each) == list(range(to))


async def test_tables_of_before(tmp_path):
    """A database of the first version is brought to this one with its jobs."""
    async with asking(tmp_path) as ask:
        job = await ask.count(1)
        await ask.ended(job)
    with sqlite3.connect(tmp_path / "mataserver.db") as old:
        old.execute("DROP TABLE jobs_deliveries")
        old.execute("DROP TABLE jobs_webhooks")
        old.execute("DROP TABLE jobs_lived")
        old.execute("DROP TABLE jobs_turns")
        old.execute("DROP INDEX jobs_queue")
        old.execute("CREATE INDEX jobs_queue ON jobs (state, created_at)")
        old.execute("ALTER TABLE jobs DROP COLUMN kept_until")
        old.execute("UPDATE jobs_version SET version_num = '0001'")
    old.close()
    async with asking(tmp_path) as ask:
        assert (await ask("GET", f"/v1/jobs/{job}"))[1]["state"] == "done"
        assert (await ask("GET", "/v1/webhooks"))[0] == 200


async def test_two_servers(tmp_path, url):
    """Two servers on one database share the work: every job is done once, whoever is asked."""
    chosen = {"database": settings(url)}
    async with asking(tmp_path, **chosen) as here, asking(tmp_path, **chosen) as there:
        jobs = [await (here, there)[number % 2].count(40) for number in range(6)]
        for job in jobs:
            shown = await there.ended(job)
            assert (shown["state"], shown["attempt"]) == ("done", 1)
            steps = (await here("GET", f"/v1/jobs/{job}/files/steps"))[1].split()
            assert steps == [b"%d" % number for number in range(40)]
        at_once = [await here("GET", f"/v1/jobs/{job}") for job in jobs]
        times = [(shown["started_at"], shown["finished_at"]) for _, shown in at_once]
        assert any(a[0] < b[0] < a[1] for a in times for b in times), "only one of them worked"
        running = await here.count(5000)
        await here.until(running, lambda shown: shown["progress"] > 0)
        assert (await there("POST", f"/v1/jobs/{running}/cancel"))[0] == 202
        assert (await here.ended(running))["state"] == "cancelled"


async def test_another_server_is_killed(tmp_path):
    """What a killed server was at, one beside it goes on with; every frame is answered once."""
    path = video(tmp_path / "v.mp4", FRAMES)
    slow = '{"seconds": 0.03}'
    async with apart(tmp_path / "data") as other:
        job = await sent(other, path, model="fake-detect", params=slow)
        await other.until(job, lambda shown: shown["progress"] > 10)
        async with asking(tmp_path / "data", jobs={"slots": 0}) as idle:
            assert (await idle("GET", f"/v1/jobs/{job}"))[1]["state"] == "running"
    async with asking(tmp_path / "data") as ask:
        assert (await ask.ended(job))["state"] == "done"
        assert [line["index"] for line in await lines(ask, job)] == list(range(FRAMES))


async def length(ask, path, **more):
    """Return the seconds that a job takes when nobody disturbs it."""
    shown = await ask.ended(await sent(ask, path, model="fake-detect", **more))
    return shown["finished_at"] - shown["started_at"]


async def whole(ask, job):
    """Assert that a job has every frame once: answered, and drawn."""
    assert [line["index"] for line in await lines(ask, job)] == list(range(FRAMES))
    _, video = await ask("GET", f"/v1/jobs/{job}/files/annotated.mp4")
    assert frames(video) == FRAMES


def frames(video):
    """Return how many frames the bytes of a video have."""
    import io

    with av.open(io.BytesIO(video)) as container:
        return sum(1 for _ in container.decode(video=0))


async def test_a_kill_at_every_moment(tmp_path):
    """Kill -9 of a job's process at moments over all of its life: it is done, each frame once."""
    path = video(tmp_path / "v.mp4", FRAMES)
    async with asking(tmp_path / "data") as ask:
        takes = await length(ask, path)
        for share in (0.05, 0.35, 0.65, 0.95):
            job = await sent(ask, path, model="fake-detect")
            await ask.until(job, lambda shown: shown["state"] != "queued")
            await asyncio.sleep(share * takes)
            for process in children_of_jobs():
                process.send_signal(signal.SIGKILL)
            shown = await ask.ended(job)
            assert (shown["state"], shown["result"]["items"]) == ("done", FRAMES), share
            await whole(ask, job)


async def test_a_cancellation_at_every_moment(tmp_path):
    """A job that is cancelled at any moment has whole files alone; run once more it is done."""
    path = video(tmp_path / "v.mp4", FRAMES)
    async with asking(tmp_path / "data") as ask:
        takes = await length(ask, path, params=SLOW)
        for share in (0.0, 0.4, 0.8):
            job = await sent(ask, path, model="fake-detect", params=SLOW)
            await asyncio.sleep(share * takes)
            status, _ = await ask("POST", f"/v1/jobs/{job}/cancel")
            shown = await ask.ended(job)
            if shown["state"] == "done" and share == 0.8:  # its process heard of it too late
                await whole(ask, job)
            else:
                assert (shown["state"] == "cancelled") or status == 409, share
            _, listed = await ask("GET", f"/v1/jobs/{job}/files")
            names = {each["name"] for each in listed["files"]}
            assert names <= {"results.jsonl", "summary.json", "annotated.mp4"}
            assert ("annotated.mp4" in names) <= (shown["state"] == "done")
            assert (await ask("POST", f"/v1/jobs/{job}/restart"))[0] == 202
            assert (await ask.ended(job))["state"] == "done"
            await whole(ask, job)


async def test_videos_that_are_none(tmp_path):
    """No frames, an end in the middle, a bomb: each job ends, and says what is wrong."""
    empty = video(tmp_path / "empty.mp4", 5, options={"movflags": "faststart"})
    data = empty.read_bytes()
    empty.write_bytes(data[: data.index(b"mdat") + 4])  # frames are announced, and none is there
    cut = video(tmp_path / "cut.mkv", FRAMES)
    data = cut.read_bytes()
    cut.write_bytes(data[: len(data) * 2 // 3])
    bomb = archive(tmp_path / "bomb.zip", [("a.png", picture()), ("b.png", bytes(50_000_000))])
    async with asking(tmp_path / "data") as ask:
        ended = {}
        for path in (empty, cut, bomb):
            job = await sent(ask, path, model="fake-detect")
            ended[path.stem] = shown = await ask.ended(job)
            assert shown["attempt"] == 1, shown
        assert ended["empty"]["state"] == ended["bomb"]["state"] == "failed"
        assert ended["empty"]["error"] == "The video has no frames"
        assert ended["bomb"]["error"].startswith("b.png: it would take 50000000 bytes")
        assert ended["cut"]["state"] == "done"
        assert 0 < ended["cut"]["result"]["items"] < FRAMES


def test_a_disk_that_is_full_while_it_draws(tmp_path):
    """A part that the disk takes no more of is an error that says so, and no part."""
    video_parts = VideoParts(tmp_path / "film")
    (tmp_path / "film" / "new").symlink_to("/dev/full")
    noise = np.random.default_rng(7).integers(0, 255, (480, 640, 3), np.uint8)
    with pytest.raises(OSError) as told:  # noqa: PT011 - its number is looked at
        video_parts.add(0, ((noise, float(number)) for number in range(20)))
    assert is_full(told.value)
    assert video_parts.parts == 0
