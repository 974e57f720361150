"""Rates and quotas where they turn: the minute, the day, several gateways, slow requests."""

from __future__ import annotations

import asyncio
import itertools
import types
import uuid

import pytest
from gateway_stand import (  # noqa: F401
    application,
    consumer,
    eventually,
    stand,
    targets,
    upstreams,
)

from mataserver_database import Database
from mataserver_database.testing import new_database
from mataserver_fleet.gateway.accounting import Accounting
from mataserver_fleet.gateway.answers import problem
from mataserver_fleet.gateway.limits import DAY, RateLimiter, TooManyRequests
from mataserver_fleet.gateway.usage import Subject, Usage
from mataserver_fleet.store import Store
from mataserver_fleet.tables import SCHEMA

NOON = 20_000 * DAY + DAY / 2
NAME = "consumer-1"


class Clock:
    """A time that is set."""

    def __init__(self, now=NOON):
        self.now = now

    def __call__(self):
        return self.now


def admitted(limits, who, count):
    """Return how many of some requests are granted."""
    return sum(wait(limits, who) is None for _ in range(count))


def wait(limits, who):
    """Return the seconds that a request must wait, None for one that is granted."""
    try:
        limits.admit(who)
    except TooManyRequests as error:
        return error.retry_after
    return None


@pytest.mark.parametrize("rate", [1, 3, 7, 60, 61, 1_000])
def test_a_rate_at_the_minutes_edge(rate):
    """So many at once, none more until the time that was told, and then one."""
    clock = Clock()
    limits, who = RateLimiter(clock, clock), consumer(1, "a", rate=rate)
    assert admitted(limits, who, 2 * rate) == rate
    for _ in range(3):
        seconds = wait(limits, who)
        assert 0 < seconds <= 60.0 / rate
        clock.now += seconds / 2
        assert wait(limits, who) is not None
        clock.now += seconds / 2 + 1e-6
        assert wait(limits, who) is None
    clock.now += 3600.0
    assert admitted(limits, who, 2 * rate) == rate, "what was not used is not kept for later"


def test_a_clock_that_is_set():
    """A minute is a minute: nobody waits longer, or has more, because the time of day was set."""
    clock, ticks = Clock(), Clock()
    limits, who = RateLimiter(clock, ticks), consumer(1, "a", rate=6)
    assert admitted(limits, who, 10) == 6
    for jump in (-3600.0, -10 * DAY, 20 * DAY):
        clock.now += jump
        assert admitted(limits, who, 10) == 0
        assert wait(limits, who) <= 10.0
        ticks.now += 10.001
        assert admitted(limits, who, 10) == 1


def test_retry_after_is_no_second_too_early():
    """Whole seconds, rounded up: who comes back then is served."""
    for seconds, told in ((0.2, "1"), (1.0, "1"), (1.4, "2"), (19.01, "20")):
        assert problem(TooManyRequests("", retry_after=seconds)).headers["Retry-After"] == told


def test_a_quota_at_midnight():
    """The last request of a day and the first of the next one are those of their days, in UTC."""
    clock = Clock(20_001 * DAY - 0.5)
    limits, who = RateLimiter(clock, clock), consumer(1, "a", quota=2)
    assert admitted(limits, who, 3) == 2
    assert wait(limits, who) == pytest.approx(0.5)
    clock.now += 0.5
    assert admitted(limits, who, 3) == 2
    limits.settle({NAME: 2}, {NAME: 2}, 20_000, 1)  # yesterday's, which comes late
    assert admitted(limits, who, 1) == 0
    limits.settle({NAME: 2}, {NAME: 2}, 20_001, 1)
    assert admitted(limits, who, 1) == 0
    clock.now += DAY
    assert admitted(limits, who, 3) == 2


def test_a_quota_and_requests_under_way():
    """What was granted and is not answered yet counts, however often accounts are settled."""
    limits, who = RateLimiter(Clock(), Clock()), consumer(1, "a", quota=4)
    assert admitted(limits, who, 4) == 4
    for _ in range(3):
        limits.settle({}, {}, 20_000, 1)
        assert admitted(limits, who, 1) == 0
    limits.settle({NAME: 1}, {NAME: 1}, 20_000, 1)
    assert admitted(limits, who, 1) == 0


def test_a_quota_that_is_set_while_requests_are_under_way():
    """What was granted before, and not written down yet, counts."""
    limits, free = RateLimiter(Clock(), Clock()), consumer(1, "a")
    assert admitted(limits, free, 3) == 3
    who = consumer(1, "a", quota=4)
    assert admitted(limits, who, 3) == 1
    limits.settle({NAME: 2}, {NAME: 2}, 20_000, 1)
    assert admitted(limits, who, 3) == 0
    assert admitted(limits, consumer(1, "a", quota=2), 1) == 0


def test_a_day_begins_with_what_was_settled():
    """Also where nobody asks between midnight and then."""
    clock = Clock(20_001 * DAY - 0.5)
    limits, who = RateLimiter(clock, clock), consumer(1, "a", quota=2)
    assert admitted(limits, who, 1) == 1
    clock.now += 1.0
    limits.settle({NAME: 2}, {}, 20_001, 2)
    assert admitted(limits, who, 1) == 0


def test_what_the_rate_refuses_is_not_of_the_quota():
    """And what the quota refuses is not of the rate."""
    clock = Clock()
    limits, who = RateLimiter(clock, clock), consumer(1, "a", rate=1, quota=2)
    assert admitted(limits, who, 5) == 1
    clock.now += 60.0
    assert admitted(limits, who, 5) == 1
    clock.now += 60.0
    assert admitted(limits, who, 1) == 0


@pytest.mark.parametrize(("rate", "gateways", "each"), [(6, 2, 3), (6, 3, 2), (1, 3, 1)])
def test_several_gateways(rate, gateways, each):
    """Each grants its part of a rate, one at least; a day's quota is all of theirs together."""
    every = [RateLimiter(Clock(), Clock()) for _ in range(gateways)]
    who = consumer(1, "a", rate=rate)
    for limits in every:
        limits.settle({}, {}, 20_000, gateways)
        assert admitted(limits, who, 10) == each
    thrifty = consumer(1, "b", quota=5)
    first, second = RateLimiter(Clock(), Clock()), RateLimiter(Clock(), Clock())
    assert admitted(first, thrifty, 2) == 2
    assert admitted(second, thrifty, 2) == 2
    for limits in (first, second):
        limits.settle({NAME: 4}, {NAME: 2}, 20_000, 2)
    assert admitted(first, thrifty, 3) == 1


async def test_requests_that_are_under_way_at_midnight(stand, upstreams, targets):  # noqa: F811
    """They count to the day that began them, by a task and by a known head, and to no other."""
    stand.follow(application(*targets[:1]), consumers=[consumer(1, "a", quota=2)])
    clock = stand.gateway.limits._clock = Clock()
    seen, go_on = upstreams[0].seen, upstreams[0].pause
    for number in (1, 2):
        clock.now = 20_001 * DAY - 0.5
        go_on.clear()
        asking = asyncio.create_task(stand.ask(key="a"))
        await eventually(lambda number=number: len(seen) == number)
        clock.now += 1.0
        go_on.set()
        assert (await asking)[0] == 200
    taken = stand.gateway.usage.take()
    assert {day: count.requests for (day, _), count in taken.items()} == {20_000: 2}
    assert stand.gateway.usage.take() == {}
    stand.gateway.limits.settle({NAME: 0}, {}, 20_001, 1)
    assert [(await stand.ask(key="a"))[0] for _ in range(3)] == [200, 200, 429]


def test_what_is_granted_come_what_may():
    """A connection of a session that was granted is never refused, and counts like a request."""
    limits, who = RateLimiter(Clock(), Clock()), consumer(1, "a", quota=2)
    assert admitted(limits, who, 1) == 1
    assert [limits.count(who).day for _ in range(2)] == [20_000] * 2
    assert admitted(limits, who, 1) == 0
    limits.settle({NAME: 2}, {NAME: 2}, 20_000, 1)  # both connections ended, the request has not
    assert admitted(limits, consumer(1, "a", quota=4), 3) == 1


async def test_gateways_that_write_the_same_counts_at_once(postgres, tmp_path, caplog):
    """They do not wait for one another, in whichever order their requests came."""
    url = await new_database(postgres, f"test_{uuid.uuid4().hex}")
    databases = [Database(tmp_path, url) for _ in range(2)]
    await databases[0].migrate(SCHEMA)
    here, there = (types.SimpleNamespace(usage=Usage(), limits=RateLimiter()) for _ in range(2))
    accounts = [
        Accounting(Store(database), gateway, 1.0, tmp_path)
        for database, gateway in zip(databases, (here, there), strict=True)
    ]
    subjects = [Subject(f"consumer-{number}", "app", "model") for number in range(200)]
    for _ in range(3):
        for each, other in zip(subjects, reversed(subjects), strict=True):
            here.usage.note(20_000, each, 200, 1, 1)
            there.usage.note(20_000, other, 200, 1, 1)
        await asyncio.gather(*(each.settle() for each in accounts))
    assert not [each for each in caplog.messages if "deadlock" in each]
    assert not here.usage.take()
    assert not there.usage.take()
    for database in databases:
        await database.close()


@pytest.mark.parametrize("days", [1, -1])
async def test_gateways_whose_clocks_differ(postgres, tmp_path, days):
    """Each counts the other as long as it lives: each lets half of a rate pass."""
    url = await new_database(postgres, f"test_{uuid.uuid4().hex}")
    database, now = Database(tmp_path, url), itertools.count(1e9)
    await database.migrate(SCHEMA)
    clocks = (lambda: next(now)), (lambda: next(now) + days * 86_400)
    counts = [], []
    for clock, count in zip(clocks, counts, strict=True):
        limits = RateLimiter()
        limits.settle = lambda *given, count=count: count.append(given[-1])
        gateway = types.SimpleNamespace(usage=Usage(), limits=limits)
        accounts = Accounting(Store(database, clock), gateway, 1.0, tmp_path)
        await accounts.settle()
        count.append(accounts)
    for count in (*counts, *counts):
        await count[1].settle()
    assert [[each for each in count if isinstance(each, int)] for count in counts] == [
        [1, 2, 2],
        [2, 2, 2],
    ]
    await database.close()
