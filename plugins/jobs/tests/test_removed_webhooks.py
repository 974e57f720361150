"""A webhook is removed in PostgreSQL while a job ends, or while a delivery does."""

from __future__ import annotations

import asyncio
import uuid

import pytest
import sqlalchemy as sa

from mataserver import NotFound
from mataserver_database import Connection
from mataserver_database.testing import new_database
from mataserver_jobs.table import DELIVERIES
from mataserver_jobs.webhooks import Webhooks

OWNER = "ada"
WAITING = sa.text(
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE datname = current_database() AND wait_event_type = 'Lock'"
)


@pytest.fixture
async def url(postgres):
    """Where the test's database is."""
    return await new_database(postgres, f"test_{uuid.uuid4().hex}")


@pytest.fixture
async def removed(database, store, monkeypatch):
    """Return what runs work whose transaction has a webhook removed before one of its calls.

    It goes on once the webhook is gone, or its removal waits for the work.
    """
    webhooks = Webhooks(database)
    made = await webhooks.add(OWNER, "http://127.0.0.1/told")

    async def run(work, name, number):
        call, mine, calls, removing = getattr(Connection, name), [], [], []

        async def called(connection, *given):
            if asyncio.current_task() in mine:
                calls.append(1)
                if len(calls) == number:
                    removing.append(asyncio.create_task(webhooks.remove(made.id)))
                    await asyncio.wait_for(until_it_waits(removing[0]), 20)
            return await call(connection, *given)

        async def until_it_waits(removal):
            while not removal.done():
                async with database.read() as connection:
                    if (await connection.execute(WAITING)).scalar():
                        return

        monkeypatch.setattr(Connection, name, called)
        mine.append(asyncio.create_task(work(webhooks)))
        await asyncio.gather(*mine)
        await removing[0]
        with pytest.raises(NotFound):
            await webhooks.remove(made.id)
        async with database.read() as connection:
            assert not list(await connection.execute(sa.select(DELIVERIES)))

    return run


async def test_while_a_job_ends(store, removed):
    """The end is stored, and nobody is told."""
    job = await store.submit("count", OWNER, {})

    async def end(_webhooks):
        await store.cancel(job.id)

    # The rows are read by ``scalars``; what is stored for them comes after it.
    await removed(end, "execute", 3)
    assert (await store.get(job.id)).state == "cancelled"


@pytest.mark.parametrize("known", [True, False])
async def test_while_a_delivery_ends(store, removed, known):
    """Neither waits for the other for ever."""
    job = await store.submit("count", OWNER, {})
    await store.cancel(job.id)

    async def deliver(webhooks):
        delivery = await webhooks.claim()
        await (webhooks.delivered(delivery) if known else webhooks.failed(delivery, "no"))

    # Two statements take the delivery; the first one of its end has been executed.
    await removed(deliver, "execute", 4)
