"""The durable queue: claims, leases, ends, on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import uuid

import pytest

from mataserver import Conflict, NotFound
from mataserver_database import Database, Page
from mataserver_database.testing import new_database
from mataserver_jobs.leases import MAX_DEATHS, MAX_LOSSES
from mataserver_jobs.store import Store
from mataserver_jobs.table import CHANNEL, PROGRESS, SCHEMA

KINDS = ["infer", "reconstruct"]


async def submit(store, number=0, owner="ada", kind="infer", **more):
    """Queue a job."""
    return await store.submit(kind, owner, {"number": number}, **more)


async def test_a_job_from_start_to_end(store, clock):
    """A job waits, is claimed, tells how far it is, and is done with its result."""
    job = await submit(store, 7)
    assert (job.state, job.progress, job.attempt) == ("queued", 0.0, 1)
    clock.now += 5
    claimed_update = await store.claim("server-1", KINDS)
    assert (claimed_update.id, claimed_update.state, claimed_update.started_at) == (
        job.id,
        "running",
        clock.now,
    )
    assert claimed_update.spec == {"number": 7}
    assert await store.report(claimed_update, "reading", 30.0, "Frame 3 of 10.")
    assert await store.report(claimed_update, "reading", 20.0, "Frame 2 of 10, once more.")
    known = await store.get(job.id)
    assert (known.stage, known.progress) == ("reading", 30.0)
    clock.now += 5
    assert await store.finish(claimed_update, {"frames": 10}, bytes_used=4096)
    done = await store.get(job.id)
    assert (done.state, done.stage, done.progress, done.error) == ("done", "done", 100.0, None)
    assert (done.result, done.bytes_used) == ({"frames": 10}, 4096)
    assert done.finished_at == clock.now
    assert await store.claim("server-1", KINDS) is None


async def test_the_oldest_first_and_only_known_kinds(store, clock):
    """Jobs are claimed in order; a kind that the runner does not know is left to others."""
    first = await submit(store, kind="reconstruct")
    clock.now += 1
    second = await submit(store)
    assert (await store.claim("a", ["infer"])).id == second.id
    assert await store.claim("a", ["infer"]) is None
    assert (await store.claim("a", KINDS)).id == first.id


async def test_no_job_is_claimed_twice(store):
    """Ten runners that reach for fifty jobs at once get each of them once."""
    jobs = {(await submit(store, number)).id for number in range(50)}
    claimed_update = []

    async def run(holder):
        while (record := await store.claim(holder, KINDS)) is not None:
            claimed_update.append(record.id)

    await asyncio.gather(*(run(f"server-{number}") for number in range(10)))
    assert sorted(claimed_update) == sorted(jobs)


async def test_a_lost_server(store):
    """A job whose lease is lost is claimed anew; what the lost server says then changes nothing."""
    await submit(store)
    lost = await store.claim("server-1", KINDS)
    assert await store.recover(await store.leases()) == 1
    again = await store.claim("server-2", KINDS)
    assert (again.id, again.losses, again.deaths, again.attempt) == (lost.id, 1, 0, 2)
    assert await store.renew(lost) is None
    assert not await store.report(lost, "reading", 90.0, "")
    assert not await store.finish(lost, {"from": "the dead"})
    assert not await store.fail(lost, "from the dead")
    assert await store.finish(again, {"from": "the living"})
    assert (await store.get(lost.id)).result == {"from": "the living"}


async def test_a_lease_that_was_renewed_meanwhile(store, clock):
    """Who was taken for dead a moment too early keeps the job, and its end counts."""
    for number in range(3):
        await submit(store, number)
    mine, ends, starts = [await store.claim("server-1", KINDS) for _ in range(3)]
    seen = await store.leases()
    assert {(each.job, each.holder) for each in seen} == {
        (each.id, "server-1") for each in (mine, ends, starts)
    }
    clock.now += 1
    await store.renew(mine)
    await store.finish(ends, None)
    await store.release(starts)
    await store.claim("server-2", KINDS)
    assert await store.recover(seen) == 0
    assert await store.finish(mine, None)


async def test_progress_wakes_nobody_for_work(database, store):
    """A report and a renewed lease are no news for who looks for work; a job's end is."""
    told = {CHANNEL: asyncio.Event(), PROGRESS: asyncio.Event()}
    for channel, event in told.items():
        database.watch(channel, event.set)
    job = await submit(store)
    claimed_update = await store.claim("server-1", KINDS)
    async with asyncio.timeout(20):
        await asyncio.gather(*(event.wait() for event in told.values()))
    await asyncio.sleep(0.6)  # and of the submission and the claim
    for event in told.values():
        event.clear()
    assert await store.report(claimed_update, "reading", 30.0, "Frame 3 of 10.")
    assert await store.renew(claimed_update) is not None
    async with asyncio.timeout(20):
        await told[PROGRESS].wait()
    assert not told[CHANNEL].is_set()
    assert await store.finish(claimed_update, {})
    async with asyncio.timeout(20):
        await told[CHANNEL].wait()
    assert (await store.get(job.id)).ended


async def test_poison(store):
    """A job whose process keeps dying fails with the reason, after a bounded number of deaths."""
    job = await submit(store)
    for death in range(1, MAX_DEATHS):
        record = await store.claim("server-1", KINDS)
        assert record.deaths == death - 1
        assert await store.died(record, "killed by signal 9")
        assert (await store.get(job.id)).state == "queued"
    await store.died(await store.claim("server-1", KINDS), "killed by signal 9")
    failed = await store.get(job.id)
    assert failed.state == "failed"
    assert failed.error == f"Its process died {MAX_DEATHS} times: killed by signal 9"


async def test_a_server_that_keeps_dying(store):
    """Lost leases are counted apart from deaths, and bounded too."""
    job = await submit(store)
    for _ in range(MAX_LOSSES):
        assert await store.claim("server-1", KINDS) is not None
        assert await store.recover(await store.leases()) == 1
    failed = await store.get(job.id)
    assert (failed.state, failed.deaths) == ("failed", 0)
    assert "was lost 20 times" in failed.error


async def test_a_shutdown_costs_no_attempt(store):
    """A job that its server gives back is neither dead nor lost."""
    await submit(store)
    record = await store.claim("server-1", KINDS)
    assert await store.release(record)
    assert (await store.claim("server-1", KINDS)).attempt == 1


async def test_cancel(store):
    """A job that waits is cancelled at once; one that runs learns of it, and one that ended not."""
    waiting = await submit(store)
    assert (await store.cancel(waiting.id)).state == "cancelled"
    running = await submit(store)
    record = await store.claim("server-1", KINDS)
    assert record.id == running.id
    assert (await store.cancel(running.id)).state == "running"
    assert (await store.renew(record)).cancel
    await store.report(record, "reading", 40.0, "")
    assert await store.stopped(record, None)
    ended = await store.get(running.id)
    assert (ended.state, ended.progress) == ("cancelled", 40.0)
    with pytest.raises(Conflict, match="has ended: cancelled"):
        await store.cancel(running.id)
    with pytest.raises(NotFound):
        await store.cancel("absent")


async def test_restart(store):
    """A job that ended runs once more with other options, as if it had never run."""
    job = await submit(store, 1)
    with pytest.raises(Conflict, match="has not ended"):
        await store.restart(job.id, {"number": 2})
    record = await store.claim("server-1", KINDS)
    await store.fail(record, "no light")
    again = await store.restart(job.id, {"number": 2})
    assert (again.state, again.progress, again.error, again.attempt) == ("queued", 0.0, None, 1)
    claimed_update = await store.claim("server-1", KINDS)
    assert claimed_update.spec == {"number": 2}
    assert not await store.finish(record, "of the first run")


async def test_idempotency(store):
    """The same key gives the same job, to its owner alone; another request under it is refused."""
    job = await submit(store, 1, key="k")
    assert (await submit(store, 1, key="k")).id == job.id
    with pytest.raises(Conflict, match="another request"):
        await submit(store, 2, key="k")
    assert (await submit(store, 1, key="k", owner="bob")).id != job.id
    assert (await submit(store, 1, key="k", kind="reconstruct")).id != job.id
    with pytest.raises(Conflict, match="this id exists"):
        await submit(store, id=job.id)


async def test_owners_see_their_own(store):
    """Another's job is not found, and stands in no list of theirs."""
    job = await submit(store)
    assert (await store.get(job.id, owner="ada")).id == job.id
    with pytest.raises(NotFound):
        await store.get(job.id, owner="bob")
    assert (await store.find(owner="bob")).jobs == []


async def test_lists(store, clock):
    """Newest first, in pages, by kind and by state."""
    jobs = []
    for number in range(5):
        clock.now += 1
        jobs.append(await submit(store, number, kind=KINDS[number % 2]))
    found, total, _ = await store.find(page=Page(2, 1))
    assert [each.id for each in found] == [jobs[3].id, jobs[2].id]
    assert total == 5
    assert (await store.find(kind="reconstruct")).total == 2
    await store.cancel(jobs[0].id)
    assert (await store.find(states=["cancelled", "done"])).total == 1


async def test_removal(store):
    """Only what has ended is forgotten."""
    job = await submit(store)
    with pytest.raises(Conflict, match="cancel it first"):
        await store.remove(job.id)
    await store.cancel(job.id)
    await store.remove(job.id)
    with pytest.raises(NotFound):
        await store.get(job.id)


async def test_what_a_process_tells(store):
    """Whatever a job's process tells of itself can be kept: NUL, half a pair, a long stage."""
    await submit(store)
    record = await store.claim("a", KINDS)
    assert await store.report(record, "s" * 100, 5.0, "a\0b\ud800")
    told = await store.get(record.id)
    assert (told.stage, told.message) == ("s" * 64, "a\ufffdb?")
    assert await store.fail(record, "no\0")
    assert (await store.get(record.id)).error == "no\ufffd"


async def test_the_ids_of_jobs(store):
    """Any number of ids can be asked for at once."""
    job = await submit(store)
    strangers = [str(uuid.UUID(int=number)) for number in range(40_000)]
    assert await store.known([*strangers, job.id]) == {job.id}


ODD = ["'; DROP TABLE jobs; --", "\x00", "naïve \u2028 \U0001f600", "%", "a" * 10_000]


@pytest.mark.parametrize("text", ODD)
async def test_odd_texts(store, text):
    """What people write is kept as it is or found nowhere; it never becomes a statement."""
    job = await store.submit("infer", "ada", {"text": text})
    assert (await store.get(job.id)).spec == {"text": text}
    with pytest.raises(NotFound):
        await store.get(text)


OTHER = """
import asyncio, sys, time
right, ahead = time.time, float(sys.argv[1])
time.time = lambda: right() + ahead
from pathlib import Path
from mataserver_database import Database
from mataserver_jobs.store import Store

async def main():
    database = Database(Path(sys.argv[2]), sys.argv[3])
    print((await Store(database).submit("infer", "ada", {})).id)
    await database.close()

asyncio.run(main())
"""
"""A server whose clock is ahead takes a job."""


@pytest.mark.parametrize("ahead", [3600.0, -3600.0])
async def test_servers_whose_clocks_differ(postgres, tmp_path, ahead):
    """Jobs wait in the order in which they came, and none ends before it begins: by one clock."""
    url = await new_database(postgres, f"clocks_{uuid.uuid4().hex}")
    database = Database(tmp_path, url)
    await database.migrate(SCHEMA)
    store = Store(database)
    try:
        jobs = [(await submit(store)).id]
        command = [sys.executable, "-c", OTHER, str(ahead), str(tmp_path), url]
        ran = await asyncio.to_thread(
            subprocess.run, command, check=True, capture_output=True, text=True
        )
        jobs += [ran.stdout.strip(), (await submit(store)).id]
        claims = [await store.claim("server", KINDS) for _ in jobs]
        assert [each.id for each in claims] == jobs
        assert all(each.created_at <= each.started_at for each in claims)
    finally:
        await database.close()
