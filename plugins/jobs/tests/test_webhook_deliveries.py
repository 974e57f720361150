"""What webhooks are still to be told, in the table, with a clock that the test sets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from pathlib import Path

import pytest
from aiohttp import web

from mataserver import BadRequest, Conflict, NotFound, Unavailable
from mataserver_database import Database
from mataserver_database.testing import new_database
from mataserver_jobs import webhooks
from mataserver_jobs.leases import MAX_DEATHS, MAX_LOSSES
from mataserver_jobs.store import Store
from mataserver_jobs.table import SCHEMA
from mataserver_jobs.webhook_delivery import DeliveryWorker
from mataserver_jobs.webhooks import GIVE_UP_SECONDS, LEASE_SECONDS, MAX_OF_ONE, Webhooks, pause


@pytest.fixture
def kept(database):
    """The webhooks in a database of each kind."""
    return Webhooks(database)


async def ended(store, owner="ada"):
    """Have a job end."""
    job = await store.submit("infer", owner, {})
    await store.cancel(job.id)
    return job.id


async def test_every_end_is_told_once(store, kept, clock):
    """Done, failed, cancelled, died too often, lost too often: each makes one delivery."""
    await kept.add("ada", "http://a/")
    await kept.add("bob", "http://b/")

    async def claimed_update():
        await store.submit("infer", "ada", {})
        return await store.claim("server", ["infer"])

    await store.finish(await claimed_update(), 1)
    await store.fail(await claimed_update(), "it broke")
    await store.stopped(await claimed_update(), None)
    await ended(store)
    job = await claimed_update()
    for _ in range(MAX_DEATHS - 1):
        await store.died(job, "killed")
        job = await store.claim("server", ["infer"])
    await store.died(job, "killed")
    await claimed_update()
    for _ in range(MAX_LOSSES - 1):
        await store.recover(await store.leases())
        await store.claim("server", ["infer"])
    await store.recover(await store.leases())
    told = []
    while (delivery := await kept.claim()) is not None:
        told.append(json.loads(delivery.body)["type"])
        assert (delivery.url, delivery.attempts) == ("http://a/", 1)
        await kept.delivered(delivery)
    failed = ["job.failed"] * 3
    assert sorted(told) == ["job.cancelled", "job.cancelled", "job.done", *failed]
    assert await kept.wait() is None


async def test_a_delivery_is_made_by_one_server(store, kept, clock):
    """What one server took no other takes, until it had its time; then it was killed."""
    await kept.add("ada", "http://a/")
    await ended(store)
    first = await kept.claim()
    assert await kept.claim() is None
    clock.now += LEASE_SECONDS + 1
    second = await kept.claim()
    assert (second.id, second.attempts) == (first.id, 2)


@pytest.mark.parametrize("ahead", [300.0, -300.0])
async def test_servers_whose_clocks_differ(postgres, monkeypatch, ahead):
    """What one server sends no other takes, and what is due is due for all, whatever they have."""
    url = await new_database(postgres, f"test_{uuid.uuid4().hex}")
    ours = Database(Path(), url)
    theirs = Database(Path(), url)
    await ours.migrate(SCHEMA)
    here, there = Webhooks(ours), Webhooks(theirs)
    await here.add("ada", "http://a/")
    await ended(Store(ours))
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + ahead)
    assert await there.wait() == 0.0
    first = await there.claim()
    monkeypatch.undo()
    assert abs(first.taken_at - time.time()) < abs(ahead) / 2  # of what it is signed with
    assert await here.wait() > LEASE_SECONDS / 2
    assert await here.claim() is None
    await here.failed(first, "no")
    monkeypatch.setattr(time, "time", lambda: real() + ahead)
    assert 0.0 < await there.wait() <= pause(1)
    await ours.close()
    await theirs.close()


async def test_a_clock_that_is_set_back(store, kept, clock):
    """What was due in a future that is none any more is due now."""
    await kept.add("ada", "http://a/")
    clock.now += 10 * webhooks.LONGEST_PAUSE
    await ended(store)
    await kept.failed(await kept.claim(), "no")
    clock.now -= 10 * webhooks.LONGEST_PAUSE
    assert await kept.claim() is not None


async def test_it_is_told_again_ever_later(store, kept, clock):
    """A webhook that fails is told again after 10 s, 30 s … 2 h, and given up after a day."""
    await kept.add("ada", "http://a/")
    await ended(store)
    begun, pauses = clock.now, []
    while (wait := await kept.wait()) is not None:
        clock.now += wait
        pauses.append(wait)
        await kept.failed(await kept.claim(), "the address answered 500")
    assert pauses[:4] == [0.0, 10.0, 30.0, 90.0]
    assert pauses == sorted(pauses)
    assert max(pauses) == pause(99) == webhooks.LONGEST_PAUSE
    assert GIVE_UP_SECONDS < clock.now - begun < GIVE_UP_SECONDS + 2 * webhooks.LONGEST_PAUSE
    (known,) = await kept.all()
    assert known.last_error.startswith("the address answered 500; it was given up after")


@pytest.mark.parametrize("days", [20_000, -20_000])
async def test_a_clock_that_leaps_gives_nothing_up(store, kept, clock, days):
    """What could not be told is told again, though the clock was set decades ahead or back."""
    await kept.add("ada", "http://a/")
    await ended(store)
    await ended(store)
    for _ in range(3):
        clock.now += days * 86_400
        await kept.failed(await kept.claim(), "no")
    told = 0
    while (wait := await kept.wait()) is not None:
        clock.now += wait
        await kept.delivered(await kept.claim())
        told += 1
    assert told == 2


async def test_what_waits_is_given_up_after_a_day_too(store, kept, clock):
    """Of ends that come all the while each is given up after a day of its own, not sooner."""
    await kept.add("ada", "http://a/")
    begun, over, due = {}, {}, clock.now
    while len(over) < 3:
        if clock.now >= due:
            begun[await ended(store)] = clock.now
            due += 4 * 3_600.0
        wait = await kept.wait()
        if wait > 0:
            clock.now += min(wait, due - clock.now)
            continue
        delivery = await kept.claim()
        await kept.failed(delivery, "no")
        if (await kept.all())[0].last_error != "no":
            over[json.loads(delivery.body)["data"]["id"]] = clock.now
    for job, at in over.items():
        assert GIVE_UP_SECONDS * 0.99 < at - begun[job] < GIVE_UP_SECONDS * 1.2


async def test_what_waits_with_it(store, kept, clock):
    """All that a failing webhook is to be told waits; another one of the owner does not."""
    bad, good = await kept.add("ada", "http://a/"), await kept.add("ada", "http://b/")
    await ended(store)
    await ended(store)
    seen = []
    while (delivery := await kept.claim()) is not None:
        seen.append(delivery.webhook)
        done = (
            kept.failed(delivery, "no") if delivery.webhook == bad.id else kept.delivered(delivery)
        )
        await done
    assert sorted(seen) == sorted([bad.id, good.id, good.id])
    await kept.remove(bad.id)
    assert await kept.wait() is None
    with pytest.raises(NotFound):
        await kept.remove(bad.id)


async def test_how_many(kept):
    """An owner has a bounded number of them."""
    for number in range(MAX_OF_ONE):
        await kept.add("ada", f"http://a/{number}")
    with pytest.raises(Conflict, match="20 webhooks"):
        await kept.add("ada", "http://a/x")
    await kept.add("bob", "http://a/x")


async def test_the_last_ones_at_once(kept):
    """Requests at the same moment give an owner no more than one after the other."""
    added = (kept.add("ada", f"http://a/{number}") for number in range(2 * MAX_OF_ONE))
    answers = await asyncio.gather(*added, return_exceptions=True)
    refused = [each for each in answers if isinstance(each, Exception)]
    assert [type(each) for each in refused] == [Conflict] * MAX_OF_ONE
    assert len(await kept.all("ada")) == MAX_OF_ONE


class AnswerLog:
    """Stands in for outbound requests: each is answered with the next status, or an error."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []

    @contextlib.asynccontextmanager
    async def __call__(self, method, url, policy, *, headers, body):
        self.asked.append((url, headers["webhook-timestamp"]))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        yield web.Response(status=answer)


async def test_what_is_answered(store, kept, clock):
    """Anything but 2xx is told again, a redirection too; 410 removes the webhook."""
    await kept.add("ada", "http://a/")
    outbound = AnswerLog(500, 307, BadRequest("webhook: the address does not answer"), 200, 410)
    courier = DeliveryWorker(kept, outbound)
    running = asyncio.create_task(courier.run())
    await ended(store)
    for count, error in enumerate(
        [
            "the address answered 500",
            "the address answered 307",
            "webhook: the address does not answer",
            None,
        ]
    ):
        courier.wake()
        await until(lambda count=count: len(outbound.asked) == count + 1)
        await until_known(kept, error)
        clock.now += pause(count + 1)
    await ended(store)
    courier.wake()
    async with asyncio.timeout(5):
        while await kept.all():
            await asyncio.sleep(0.01)
    await courier.close()
    await running
    stamps = [int(stamp) for _, stamp in outbound.asked]
    assert stamps == sorted(set(stamps))


async def until(true):
    """Wait for something."""
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0.01)


async def until_known(kept, error):
    """Wait until the one webhook has this error."""
    async with asyncio.timeout(5):
        while True:
            (known,) = await kept.all()
            if known.last_at is not None and known.last_error == error:
                return
            await asyncio.sleep(0.01)


async def test_what_hinders_them_is_logged_once(kept, monkeypatch, caplog):
    """A database that does not answer for an hour is one line, and a second outage another."""
    courier, looks, answers = DeliveryWorker(kept, None), [], []

    async def wait():
        looks.append(1)
        if not answers:
            raise Unavailable("away")

    monkeypatch.setattr(kept, "wait", wait)
    running = asyncio.create_task(courier.run())
    async with asyncio.timeout(20):
        for answering in (False, True, False):
            answers[:] = [1] * answering
            looks.clear()
            while len(looks) < 4:
                courier.wake()
                await asyncio.sleep(0)
    await courier.close()
    await running
    assert caplog.text.count("webhooks are not called now: away") == 2
