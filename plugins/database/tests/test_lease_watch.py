"""Which leases are over, whatever the time of day is."""

from __future__ import annotations

from mataserver_database import LeaseWatch


def test_leases_that_stand_still():
    """One that is renewed lives; one that stands still for as long as it lasts is over."""
    now = [0.0]
    watch = LeaseWatch(10.0, lambda: now[0])
    assert watch.expired({"a": 1, "b": 1}) == set()
    now[0] = 9.9
    assert watch.expired({"a": 1, "b": 2}) == set()
    now[0] = 10.0
    assert watch.expired({"a": 1, "b": 2}) == {"a"}
    assert watch.expired({"b": 2}) == set()  # a is released
    now[0] = 19.0
    assert watch.expired({"a": 1, "b": 1}) == set()  # another value, also an older one, is new
    now[0] = 29.0
    assert watch.expired({"a": 1, "b": 1}) == {"a", "b"}
