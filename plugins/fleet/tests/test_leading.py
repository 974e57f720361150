"""Which of several servers manages the Tritons, with stand-ins, on both databases."""

from __future__ import annotations

import asyncio
import itertools

import pytest
import sqlalchemy as sa
from stand_in_fleet import FAST, until

from mataserver_database import Database, NewerSchemaError
from mataserver_fleet.counts import ModelCounts
from mataserver_fleet.leadership import LEASE_SECONDS, LeaderLease
from mataserver_fleet.store import Store
from mataserver_fleet.tables import FACTS, MODELS, SCHEMA
from mataserver_fleet.triton_answers import ModelCount
from mataserver_fleet.triton_metrics import MAX_AGE_SECONDS, TritonMetrics

pytestmark = pytest.mark.long

OK = {"status": "ok"}


async def test_two_servers(serve, fleets, url, tmp_path):
    """Of several servers on one database one looks after the Tritons; each can load."""
    async with fleets(1) as fleet, serve(fleet=FAST) as other:
        status, done = await other.ask("POST", "/api/models/m/load")
        assert (status, done["status"]) == (200, "ok")
        assert len(fleet.tritons[0].pushes) == 1


async def test_a_fleet_without_tritons(fleets, url, tmp_path):
    """Nobody holds the lease while there is nothing to manage, so nothing is written."""
    async with fleets(1, registered=0) as fleet:
        database = Database(tmp_path, url)
        query = sa.select(FACTS.c.until).where(FACTS.c.name == "leader")

        async def lease():
            async with database.read() as connection:
                return [await connection.scalar(query)]

        try:
            await fleet.client.ask("DELETE", "/api/models/m")
            assert await lease() == [None]
            for _ in range(2):
                await fleet.register(0)
                assert (await lease())[0] > 0
                assert (await fleet.client.ask("DELETE", "/api/tritons/t0"))[0] == 200

                async def is_released():
                    return await lease() == [0]

                await until(is_released)
        finally:
            await database.close()


async def test_a_fleet_of_newer_servers(url, tmp_path):
    """Once a newer server has migrated the tables, one that held the lease renews it no more."""
    database = Database(tmp_path, url)
    try:
        await database.migrate(SCHEMA)
        lease = LeaderLease(Store(database))
        assert await lease.acquire()
        async with database.begin() as connection:
            await connection.execute(sa.text("UPDATE fleet_version SET version_num = '9999'"))
        with pytest.raises(NewerSchemaError, match="holds fleet 9999"):
            await lease.acquire()
    finally:
        await database.close()


@pytest.mark.parametrize("step", [0.1, -86_400.0])
async def test_the_lease(url, tmp_path, step):
    """One server holds it; another takes it when it was not renewed, or was given up.

    That is so whatever the clock of the day does, which changes by ``step`` at each look.
    """
    days, now = itertools.count(1e9, step), [1000.0]
    database = Database(tmp_path, url)
    await database.migrate(SCHEMA)
    store = Store(database, lambda: next(days))
    first, second = (LeaderLease(store, lambda: now[0]) for _ in range(2))
    try:
        assert await first.acquire()
        assert not await second.acquire()
        now[0] += LEASE_SECONDS - 0.1
        assert await first.acquire()
        assert not await second.acquire()
        now[0] += LEASE_SECONDS - 0.1
        assert not await second.acquire()
        now[0] += LEASE_SECONDS / 2  # two looks at least tell that it stands still
        assert await second.acquire()
        assert not await first.acquire()
        await second.release()
        assert await first.acquire()
    finally:
        await database.close()


async def test_counts_of_a_server_that_stood_still(url, tmp_path):
    """What it read before another server took the lease is not counted once more."""
    now = [1000.0]
    database = Database(tmp_path, url)
    await database.migrate(SCHEMA)
    store = Store(database)
    leases = [LeaderLease(store, lambda: now[0]) for _ in range(2)]
    first, second = (ModelCounts(store, lease) for lease in leases)
    row = {"name": "m", "description": "", "everywhere": False, "everywhere_versions": "[]"}
    try:
        async with database.begin() as connection:
            await connection.execute(sa.insert(MODELS).values(**row, created_at=0.0, revision=1))
            model = await connection.scalar(sa.select(MODELS.c.id))
        assert await leases[0].acquire()
        await first.note(1, [ModelCount("m", 1, 100, 100, 0.0)])
        while not await leases[1].acquire():
            now[0] += LEASE_SECONDS / 2
        await second.note(1, [ModelCount("m", 1, 150, 150, 0.0)])
        await first.note(1, [ModelCount("m", 1, 120, 120, 0.0)])
        await first.reset(1, model)
        await second.note(1, [ModelCount("m", 1, 160, 160, 0.0)])
        assert (await second.totals([model]))[model][1].inferences == 160
    finally:
        await database.close()


async def test_metrics_of_a_server_that_is_cut_off(fleets, url, tmp_path):
    """What it read is shown for seconds only: another server leads and shows the same by then."""
    now = [0.0]
    metrics = TritonMetrics(lambda: now[0])
    database = Database(tmp_path, url)

    def shown():
        return {each.name for family in metrics.collect() for each in family.samples}

    try:
        async with fleets(1):
            assert not shown()
            await metrics.read(Store(database))
            assert "mataserver_fleet_triton_up" in shown()
            now[0] = MAX_AGE_SECONDS
            assert "mataserver_fleet_triton_up" in shown()
            now[0] += 0.1
            assert not shown()
    finally:
        await database.close()


async def test_a_leader_that_lacks_threads_stops_watching(fleets, url, tmp_path, monkeypatch):
    """Its lease is over before it goes on: two servers would manage the Tritons."""
    monkeypatch.setattr("mataserver.tasks.SHORTAGE_PAUSE", 0.05)
    async with fleets(1) as fleet:
        supervisor = fleet.client.server.service("fleet")._supervisor

        async def no_thread():
            raise RuntimeError("can't start new thread")

        async def watches():
            return bool(supervisor._watches)

        async def watches_none():
            return not supervisor._watches and not supervisor._is_leader

        assert await watches()
        with monkeypatch.context() as patched:
            patched.setattr(supervisor._lease, "acquire", no_thread)
            await until(watches_none, 5)
        await until(watches)
        await fleet.state(0, "ready")


async def test_a_leader_whose_database_hangs_stops_watching(fleets, url, tmp_path, monkeypatch):
    """Its lease ends before the statement does, which then does not make it the leader."""
    async with fleets(1) as fleet:
        supervisor = fleet.client.server.service("fleet")._supervisor
        hangs, led, clock = asyncio.Event(), [], asyncio.get_running_loop().time
        begun = clock() + 3600

        async def hung():
            nonlocal begun
            begun = clock()
            await hangs.wait()
            return True

        async def watches():
            return bool(supervisor._watches)

        async def watches_none():
            return not supervisor._watches and not supervisor._is_leader

        assert await watches()
        acquire = supervisor._lease.acquire

        async def is_too_late():
            return clock() > begun + LEASE_SECONDS

        async def renewed():
            led.append(supervisor._is_leader)
            return await acquire()

        monkeypatch.setattr(supervisor._lease, "acquire", hung)
        await until(watches_none)
        await until(is_too_late)
        monkeypatch.setattr(supervisor._lease, "acquire", renewed)
        hangs.set()
        await until(watches)
        assert led[0] is False
        await fleet.state(0, "ready")


async def test_a_leader_that_hangs_as_it_looks_for_changes(fleets, url, tmp_path, monkeypatch):
    """It stops watching as well, and watches again once the database answers."""
    async with fleets(1) as fleet:
        supervisor = fleet.client.server.service("fleet")._supervisor
        hangs, version = asyncio.Event(), supervisor._store.version

        async def hung():
            await hangs.wait()
            return await version()

        async def watches():
            return bool(supervisor._watches)

        async def watches_none():
            return not supervisor._watches and not supervisor._is_leader

        with monkeypatch.context() as patched:
            patched.setattr(supervisor._store, "version", hung)
            await until(watches_none)
        hangs.set()
        await until(watches)
        await fleet.state(0, "ready")
