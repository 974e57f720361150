"""What is kept for days goes by the time that servers have run, whatever the time of day is."""

from __future__ import annotations

import asyncio

import pytest
from serving_jobs import apart, asking

from mataserver_database import Database
from mataserver_jobs.lived_time import PERIOD_SECONDS, LivedTime
from mataserver_jobs.store import Store
from mataserver_jobs.uploads import Uploads

pytestmark = pytest.mark.long

DECADES = 50 * 365 * 86_400.0
KEEP = 7_200.0


class Steady:
    """Seconds that are never set: of one server."""

    now = 0.0

    def __call__(self):
        return self.now


async def lived(database, clock):
    """Return the time of a server that just started."""
    made = LivedTime(clock)
    await made.begin(database)
    return made


async def passed(database, steady, seconds, *times):
    """Have some time pass, in which each server looks once a period."""
    for _ in range(int(seconds / PERIOD_SECONDS)):
        steady.now += PERIOD_SECONDS
        for each in times:
            await each.advance(database)


async def test_time_passes_once(database):
    """Of two servers that run together, and of a third after both, each second counts once."""
    steady = Steady()
    first, second = await lived(database, steady), await lived(database, steady)
    begun = first.now()
    await passed(database, steady, 600, first, second)
    assert first.now() == second.now() == pytest.approx(begun + 600)
    later = Steady()
    later.now = DECADES  # nothing ran in between
    third = await lived(database, later)
    assert third.now() == pytest.approx(begun + 600)
    await passed(database, later, 600, third)
    assert third.now() == pytest.approx(begun + 1_200)
    await first.advance(database)  # it was held up all the while
    assert first.now() == pytest.approx(begun + 1_200)


async def test_a_server_that_stood_still(database):
    """While it did nobody could use what it kept: little of that counts."""
    steady = Steady()
    time = await lived(database, steady)
    begun = time.now()
    steady.now += DECADES
    assert time.now() == begun + 2 * PERIOD_SECONDS
    await time.advance(database)
    assert (await lived(database, steady)).now() == begun + 2 * PERIOD_SECONDS


@pytest.mark.parametrize("leap", [DECADES, -DECADES])
async def test_jobs_whose_clock_is_set(database, clock, leap):
    """An ended job is kept for its time, and no longer, though the clock leaps decades."""
    steady = Steady()
    time = await lived(database, steady)
    store = Store(database, keep=KEEP, lived=time.now)

    async def ended():
        job = await store.submit("infer", "ada", {})
        await store.cancel(job.id)
        return job.id

    before = await ended()
    clock.now += leap
    assert await store.expired() == []
    await passed(database, steady, KEEP / 2, time)
    after = await ended()
    await passed(database, steady, KEEP / 2 - PERIOD_SECONDS, time)
    assert await store.expired() == []
    await passed(database, steady, 2 * PERIOD_SECONDS, time)
    assert await store.expired() == [before]
    await passed(database, steady, KEEP / 2, time)
    assert set(await store.expired()) == {before, after}


async def test_the_first_to_go_over_the_budget(database, clock):
    """Over the budget goes what ended first, also where its time of day is the later one."""
    steady = Steady()
    time = await lived(database, steady)
    store = Store(database, lived=time.now)

    async def ended():
        job = await store.submit("infer", "ada", {}, bytes_used=10)
        await store.cancel(job.id)
        return job.id

    first = await ended()
    clock.now -= DECADES
    await passed(database, steady, 600, time)
    await ended()
    assert await store.over_budget(10) == [first]


async def test_a_restarted_job_is_kept_anew(database):
    """A job that runs again begins its time at its next end."""
    steady = Steady()
    time = await lived(database, steady)
    store = Store(database, keep=KEEP, lived=time.now)
    job = await store.submit("infer", "ada", {})
    await store.cancel(job.id)
    await passed(database, steady, KEEP / 2, time)
    assert (await store.restart(job.id, {})).kept_until is None
    await store.cancel(job.id)
    await passed(database, steady, KEEP * 3 / 4, time)
    assert await store.expired() == []


async def test_uploads_whose_clock_is_set(database, tmp_path):
    """An unfinished upload outlasts a server that was off for long, and its time is its own."""
    steady = Steady()
    limits = {"max_bytes": 10, "budget": 100, "keep": KEEP, "min_free": 0}
    time = await lived(database, steady)
    uploads = Uploads(tmp_path / "uploads", **limits, clock=time.now)
    made = uploads.create("ada", 3)
    await passed(database, steady, KEEP / 2, time)
    steady.now += DECADES
    again = await lived(database, steady)
    uploads = Uploads(tmp_path / "uploads", **limits, clock=again.now)
    assert uploads.sweep() == 0
    assert uploads.left(uploads.get(made.id)) == pytest.approx(KEEP / 2)
    await passed(database, steady, KEEP / 2 + PERIOD_SECONDS, again)
    assert uploads.sweep() == 1


async def test_a_server_writes_down_what_it_lived(tmp_path):
    """Its end writes it: short lives add up."""
    async with asking(tmp_path) as ask:
        jobs = ask.served.service("jobs")
        begun = jobs._lived.now()
        jobs._lived._read_at -= 30.0  # half a minute ago
    async with asking(tmp_path) as ask:
        assert ask.served.service("jobs")._lived.now() >= begun + 30.0


async def test_servers_that_are_killed_in_their_first_minute(tmp_path):
    """What they lived through adds up, well before the period is over."""
    seconds = []
    for _ in range(2):
        async with apart(tmp_path), asyncio.timeout(PERIOD_SECONDS / 2):
            database = Database(tmp_path)
            begun = (await lived(database, Steady())).now()
            while (now := (await lived(database, Steady())).now()) == begun:
                await asyncio.sleep(0.1)
            await database.close()
        seconds += begun, now
    first, second, third, fourth = seconds
    assert first < second <= third < fourth
