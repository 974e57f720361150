"""Many who follow jobs: a change is read once for all of them."""

from __future__ import annotations

import asyncio

import pytest
import sqlalchemy as sa
from serving_jobs import asking

from mataserver import MataError, NotFound, Unavailable
from mataserver_jobs.followed_jobs import FollowedJobs
from mataserver_jobs.store import Store
from mataserver_jobs.table import JOBS


@pytest.fixture
def readings(store, monkeypatch):
    """What a queue was asked for, one entry for each statement."""
    asked, get_all = [], store.get_all

    async def noted(jobs):
        asked.append(sorted(jobs))
        return await get_all(jobs)

    monkeypatch.setattr(store, "get_all", noted)
    return asked


async def test_one_reading_for_all(store, readings):
    """Each gets the job that it asked for; nobody gets one that was read before it asked."""
    jobs = [(await store.submit("count", "ada", {"to": number})).id for number in range(3)]
    followed = FollowedJobs(store)
    found = await asyncio.gather(*(followed.get(jobs[number % 3]) for number in range(60)))
    assert [each.spec["to"] for each in found] == [number % 3 for number in range(60)]
    assert readings == [sorted(jobs)]
    await store.cancel(jobs[0])
    later = await asyncio.gather(followed.get(jobs[0]), followed.get(jobs[0]))
    assert {each.state for each in later} == {"cancelled"}
    assert readings[1:] == [[jobs[0]]]


async def test_who_asks_while_it_is_read(store, readings, monkeypatch):
    """What changed after a reading began may not be in it: there is another one."""
    job = (await store.submit("count", "ada", {"to": 1})).id
    followed, reading, go_on = FollowedJobs(store), asyncio.Event(), asyncio.Event()
    get_all = store.get_all

    async def slow(jobs):
        found = await get_all(jobs)
        reading.set()
        await go_on.wait()
        return found

    monkeypatch.setattr(store, "get_all", slow)
    first = asyncio.create_task(followed.get(job))
    await reading.wait()
    await store.cancel(job)
    second = asyncio.create_task(followed.get(job))
    await asyncio.sleep(0)
    go_on.set()
    assert [(await first).state, (await second).state] == ["queued", "cancelled"]
    assert len(readings) == 2


async def test_what_fails_is_told_to_all(store, monkeypatch):
    """A job that is gone, and a database that is; whoever left meanwhile does not matter."""
    known, gone = (await store.submit("count", "ada", {"to": 1})).id, "gone"
    followed = FollowedJobs(store)
    leaver = asyncio.create_task(followed.get(gone))
    await asyncio.sleep(0)
    leaver.cancel()
    found = await asyncio.gather(
        followed.get(known), followed.get(gone), followed.get(gone), return_exceptions=True
    )
    assert found[0].id == known
    assert [type(each) for each in found[1:]] == [NotFound, NotFound]

    async def away(_jobs):
        raise Unavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(store, "get_all", away)
        found = await asyncio.gather(
            *(followed.get(known) for _ in range(3)), return_exceptions=True
        )
        assert [type(each) for each in found] == [Unavailable] * 3
        assert len({id(each) for each in found}) == 3  # each has its own, which it raises
        assert {(each.status, each.detail) for each in found} == {(503, "away")}
    assert (await followed.get(known)).id == known


async def test_a_row_that_cannot_be_read(store, database):
    """It fails for those who follow that job, and for no others."""
    good, bad = [(await store.submit("count", "ada", {"to": 1})).id for _ in range(2)]
    async with database.begin() as connection:
        await connection.execute(sa.update(JOBS).where(JOBS.c.id == bad).values(spec="{"))
    followed = FollowedJobs(store)
    wanted = (followed.get(each) for each in (good, bad, bad, good))
    found = await asyncio.gather(*wanted, return_exceptions=True)
    assert [each.id for each in (found[0], found[3])] == [good, good]
    assert [(type(each), each.status) for each in found[1:3]] == [(MataError, 500)] * 2
    assert found[1] is not found[2]


async def test_a_reading_that_ends_by_what_nobody_expects(store, monkeypatch):
    """A log line for which there is no memory either: nobody waits for ever."""
    job = (await store.submit("count", "ada", {"to": 1})).id
    followed = FollowedJobs(store)

    def fail(*_given):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(store, "get_all", fail)
        patch.setattr("mataserver_jobs.followed_jobs.log.exception", fail)
        async with asyncio.timeout(20):
            with pytest.raises(MataError, match="cannot be read"):
                await followed.get(job)
    assert (await followed.get(job)).id == job


async def test_forty_followers(tmp_path, monkeypatch):
    """All are told of every state; the database is asked for each change, not for each of them."""
    readings = []

    def noted(read):
        async def reading(*given):
            readings.append(given)
            return await read(*given)

        return reading

    for name in ("get", "get_all"):
        monkeypatch.setattr(Store, name, noted(getattr(Store, name)))
    async with asking(tmp_path) as ask:
        job = await ask.count(150)
        followers = [ask("GET", f"/v1/jobs/{job}/events") for _ in range(40)]
        told = 0
        for status, text in await asyncio.gather(*followers):
            events = text.decode().strip().split("\n\n")
            assert status == 200
            assert "event: end" in events[-1]
            assert '"progress":100.0' in events[-1]
            assert len(events) > 2
            told += len(events)
    assert len(readings) - 40 < told / 2  # each asks whose job it is, once
