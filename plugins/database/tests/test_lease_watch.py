"""Which leases are over, whatever the time of day is."""

from __future__ import annotations

from mataserver_database import LeaseWatch


def test_leases_that_stand_still():
    """One that is renewed lives; one that stands still for as long as it lasts is over."""
    now = [0.0]
    watch = LeaseWatch(10.0, lambda: now[0])

    def expired(at, leases):
        now[0] = at
        return watch.expired(leases)

    assert expired(0.0, {"a": 1, "b": 1}) == set()
    assert expired(5.0, {"a": 1, "b": 1}) == set()
    assert expired(9.9, {"a": 1, "b": 2}) == set()
    assert expired(10.0, {"a": 1, "b": 2}) == {"a"}
    assert expired(11.0, {"b": 2}) == set()  # a is released
    assert expired(16.0, {"a": 1, "b": 1}) == set()  # another value, also an older one, is new
    assert expired(21.0, {"a": 1, "b": 1}) == set()
    assert expired(26.0, {"a": 1, "b": 1}) == {"a", "b"}


def test_while_nobody_looked():
    """What was not looked at for long was perhaps not renewed for the same reason."""
    now = [0.0]
    watch = LeaseWatch(10.0, lambda: now[0])
    assert watch.expired({"a": 1}) == set()
    now[0] = 60.0  # the database was away: no holder could renew
    assert watch.expired({"a": 1}) == set()
    now[0] = 64.0
    assert watch.expired({"a": 2}) == set()
    now[0] = 124.0
    assert watch.expired({"a": 2}) == set()
    now[0] = 129.0
    assert watch.expired({"a": 2}) == {"a"}
