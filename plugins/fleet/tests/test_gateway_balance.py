"""Which of several servers is asked: the least busy one, and one that came back step by step."""

from __future__ import annotations

from collections import Counter

from mataserver_fleet.gateway.servers import MIN_SHARE, SLOW_START, Servers
from mataserver_fleet.gateway.snapshot import Target

TARGETS = [Target(f"10.0.0.{number}", 8000) for number in (1, 2)]
PATH = "/v2/models/m/ready"


class Drawing:
    """Gives numbers from 0 to 1, evenly, one after the other."""

    def __init__(self):
        self.number = 0

    def __call__(self):
        self.number += 1
        return self.number % 100 / 100


def picked(servers, times=1000):
    """Return how often each server is picked while nothing is outstanding."""
    found = Counter(servers.pick(TARGETS, PATH) for _ in range(times))
    return [found[each] / times for each in TARGETS]


async def test_one_that_came_back_is_asked_at_once_and_ever_more():
    """From its first moment on it has the part of the requests that it begins with, then more."""
    now = [100.0]
    servers = Servers(lambda: now[0], lambda found: found[-1], Drawing())
    back = servers.get(TARGETS[1])
    back.mark_dead()
    assert picked(servers) == [1.0, 0.0]
    back.mark_alive(now[0])
    first = picked(servers)[1]
    now[0] += SLOW_START / 2
    half = picked(servers)[1]
    now[0] += SLOW_START / 2
    assert (round(first, 2), round(half, 2), picked(servers)[1]) == (MIN_SHARE, 0.5, 1.0)


async def test_one_that_came_back_is_asked_where_there_is_no_other():
    """A request is answered by whoever there is, also when all came back just now."""
    now = [100.0]
    servers = Servers(lambda: now[0], lambda found: found[0], lambda: 1.0)
    for each in TARGETS:
        servers.get(each).mark_dead()
        servers.get(each).mark_alive(now[0])
    assert picked(servers) == [1.0, 0.0]


def test_the_least_busy_one_is_asked():
    """By what is outstanding, of which one of twice the weight may have twice as much."""
    servers = Servers(lambda: 100.0, lambda found: found[0])
    servers.get(TARGETS[0]).begin()
    assert picked(servers) == [0.0, 1.0]
    servers.get(TARGETS[1]).begin()
    servers.get(TARGETS[1]).begin()
    assert picked(servers) == [1.0, 0.0]
