"""Owners take turns, and make room for each other: on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import logging

import pytest
import sqlalchemy as sa

from mataserver_database import Database
from mataserver_jobs.departed_owners import DepartedOwnerCleaner
from mataserver_jobs.store import Store
from mataserver_jobs.table import TURNS
from mataserver_jobs.uploads import Uploads

KINDS = ["infer", "reconstruct"]
DECADES = 50 * 365 * 86_400.0


@pytest.fixture
def submit(store, clock):
    """What queues jobs of an owner, a second apart, and returns their ids."""

    async def submit(owner, count=1, kind="infer", **more):
        jobs = []
        for number in range(count):
            clock.now += 1
            jobs.append((await store.submit(kind, owner, {"number": number}, **more)).id)
        return jobs

    return submit


async def done(store, kinds=KINDS):
    """Have the next job done; return it, None when none waits."""
    record = await store.claim("server", kinds)
    if record is not None:
        assert await store.finish(record, {})
    return record


async def test_the_thousands_of_one(store, submit):
    """Who comes last with one job is next; who has many has all other turns, in their order."""
    many, few, one = await submit("ada", 5), await submit("bob", 2), await submit("cyd")
    order = [(await done(store)).id for _ in range(8)]
    assert order == [many[0], few[0], one[0], many[1], few[1], *many[2:]]
    assert await done(store) is None


async def test_whose_jobs_run(store, submit):
    """The owner of whom fewer jobs run is next, also where the other's turn is longer ago."""
    await submit("ada", 2)
    running = await store.claim("server", KINDS)
    await submit("bob", 3)
    assert (await done(store)).owner == "bob"
    assert (await store.claim("server", KINDS)).owner == "bob"
    assert (await store.claim("server", KINDS)).owner == "ada"  # one each, and ada's is longer ago
    assert await store.finish(running, {})
    assert (await store.claim("server", KINDS)).owner == "bob"


async def test_a_clock_that_is_set_changes_no_turn(store, submit, clock):
    """Turns are counted: one that was taken decades ahead is not the last for decades."""
    await submit("ada", 3)
    await submit("bob", 3)
    clock.now += DECADES
    assert (await done(store)).owner == "ada"
    clock.now -= DECADES
    assert [(await done(store)).owner for _ in range(5)] == ["bob", "ada", "bob", "ada", "bob"]


async def test_what_had_begun_goes_on_first(store, submit):
    """A job that lost its server, its process or its node's room does not wait behind others."""
    await submit("ada", 2)
    begun = await store.claim("server", KINDS)
    await submit("bob", 2)
    assert await store.release(begun)
    assert await store.next_kind(KINDS) == "infer"
    again = await store.claim("server", KINDS)
    assert again.id == begun.id
    assert await store.died(again, "killed by signal 9")
    again = await store.claim("server", KINDS)
    assert again.id == begun.id
    assert await store.recover(await store.leases()) == 1
    assert (await store.claim("server", KINDS)).id == begun.id
    assert (await store.claim("server", KINDS)).owner == "bob"


async def test_a_restart_and_a_removal_give_no_turn(store, submit):
    """Who restarts or removes what ended is behind those who had no turn since."""
    await submit("ada", 2)
    first, second = await done(store), await done(store)
    await store.remove(first.id)
    await store.restart(second.id, {})
    [bob] = await submit("bob")
    await submit("ada")
    assert [(await done(store)).id for _ in range(2)] == [bob, second.id]


async def test_kinds_that_a_server_does_not_know(store, submit):
    """Whose turn it is, is told of the jobs that the server can run; so is the kind."""
    [left] = await submit("ada", kind="reconstruct")
    [first] = await submit("ada")
    [other] = await submit("bob")
    assert await store.next_kind(["infer"]) == "infer"
    assert [(await done(store, ["infer"])).id for _ in range(2)] == [first, other]
    assert await done(store, ["infer"]) is None
    assert await store.next_kind(["infer"]) is None
    assert await store.next_kind(KINDS) == "reconstruct"
    assert (await done(store)).id == left


async def test_two_servers_at_once(database, store, submit, url, tmp_path):
    """Servers that claim at the same moment see what the others just took: the turns hold."""
    other = Database(tmp_path, url)
    try:
        servers = [store, Store(other)]
        for _ in range(10):
            await submit("ada", 6)
            await submit("bob", 2)
            claims = [each.claim("server", KINDS) for each in servers * 2]
            claimed = await asyncio.gather(*claims)
            assert sorted(each.owner for each in claimed) == ["ada", "ada", "bob", "bob"]
            for each in claimed:
                await store.finish(each, {})
            while await done(store) is not None:
                pass
    finally:
        await other.close()


async def test_a_claim_while_its_job_is_cancelled(store, submit):
    """A job that is cancelled while servers reach for it runs nowhere, and no other is lost."""
    jobs = await submit("ada", 12)
    claims = [store.claim("server", KINDS) for _ in range(12)]
    cancels = [store.cancel(job) for job in jobs[:6]]
    found = await asyncio.gather(*claims, *cancels)
    claimed = [each for each in found[:12] if each is not None]
    while (record := await store.claim("server", KINDS)) is not None:
        claimed.append(record)
    ended = {job for job in jobs if (await store.get(job)).ended}
    assert sorted([*ended, *(each.id for each in claimed)]) == sorted(jobs)


async def test_who_has_the_most_makes_room(store, submit):
    """Over the budget go the first of the owner who has the most then; others keep all."""

    async def ended(owner, size):
        [job] = await submit(owner, bytes_used=size)
        await store.cancel(job)
        return job

    bob = [await ended("bob", 10), await ended("bob", 20)]
    ada = [await ended("ada", 40), await ended("ada", 5), await ended("ada", 30)]
    assert await store.over_budget(105) == []
    assert await store.over_budget(65) == ada[:1]
    assert await store.over_budget(64) == ada[:2]
    assert set(await store.over_budget(0)) == {*ada, *bob}


async def test_what_has_not_ended_makes_no_room(store, submit):
    """Who has the most, of which nothing has ended, keeps it; the next one makes room."""
    await submit("ada", bytes_used=100)
    [bob] = await submit("bob", bytes_used=10)
    await store.cancel(bob)
    assert await store.over_budget(50) == [bob]


async def test_the_turns_of_who_is_gone(database, store, submit, tmp_path):
    """Of a removed owner no turn stays."""
    await submit("ada")
    await submit("bob")
    assert await done(store)
    assert await done(store)
    limits = {"max_bytes": 10, "budget": 100, "keep": 60.0, "min_free": 0}
    uploads = Uploads(tmp_path / "uploads", **limits)

    async def gone(owners):
        return {"ada"} & set(owners)

    cleaner = DepartedOwnerCleaner(database, store, uploads, [gone], logging.getLogger("test"))
    assert await cleaner.sweep() == {"ada"}
    async with database.read() as connection:
        assert list(await connection.scalars(sa.select(TURNS.c.owner))) == ["bob"]
    assert await cleaner.sweep() == set()
