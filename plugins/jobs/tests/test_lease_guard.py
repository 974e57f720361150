"""A job's process and what it is told of its lease, which it may read late."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from types import SimpleNamespace

import msgspec
import psutil
import pytest

from mataserver_jobs import lease_guard
from mataserver_jobs.attempt import HOLD_SECONDS, Attempt
from mataserver_jobs.kinds import LeaseRenewed

GUARDED = """
import sys
import msgspec
from mataserver_jobs import lease_guard
from mataserver_jobs.kinds import LeaseRenewed
lease_guard._READ_BYTES = 256
lease = msgspec.json.decode(sys.argv[1], type=LeaseRenewed)
lease_guard.LeaseGuard(lease, sys.stdin.fileno()).watch()
print("closed")
"""
HOUR = 3_600.0


@pytest.fixture
def guarded():
    """Start a process that watches a lease; it is told each of ``later`` before it begins.

    Its server tells no more, and has ``closed`` the pipe, or not yet.
    """
    started = []

    def start(lease, *later, closed=False):
        reading, writing = os.pipe()
        with os.fdopen(reading), os.fdopen(writing, "wb") as news:
            for each in later:
                news.write(msgspec.json.encode(each) + b"\n")
            news.flush()
            process = subprocess.Popen(
                [sys.executable, "-c", GUARDED, msgspec.json.encode(lease)],
                stdin=reading,
                stdout=subprocess.PIPE,
                start_new_session=True,
            )
            started.append((process, [] if closed else [os.dup(writing)]))
        return process

    yield start
    for process, kept in started:
        for each in kept:
            os.close(each)
        process.kill()
        process.communicate()


async def stopped(process):
    """Wait until a process has stopped itself; it must not have ended."""
    async with asyncio.timeout(30):
        while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
            assert process.poll() is None
            await asyncio.sleep(0.02)


def sent(ago, seconds):
    """Return what was sent a while ago, for so many seconds from then."""
    return LeaseRenewed(seconds, lease_guard.clock(), lease_guard.now() + seconds - ago)


async def test_what_is_read_late_does_not_last_longer(guarded):
    """The time counts from when it was sent: another server may have the job by now."""
    await stopped(guarded(sent(HOUR, 600.0)))
    await stopped(guarded(sent(0.0, HOUR), sent(HOUR, 600.0)))


async def test_the_latest_news_count(guarded):
    """All that waited is read before it stops; it goes on where the last is not over."""
    late = [sent(HOUR - each, 600.0) for each in range(10)]  # more than is read at once
    told = [msgspec.json.encode(each) for each in late]
    assert 2 * 256 < sum(map(len, told)) < 3_000  # the smallest pipe, of a page, takes all
    process = guarded(late[0], *late, sent(0.0, HOUR), closed=True)
    assert process.communicate(timeout=30) == (b"closed\n", None)


async def test_another_machines_clock_says_nothing(guarded):
    """There the time counts from when it is read: its clock began with its own boot."""
    lease = LeaseRenewed(HOUR, "another boot.1", lease_guard.now() - HOUR)
    assert guarded(lease, closed=True).communicate(timeout=30) == (b"closed\n", None)
    await stopped(guarded(LeaseRenewed(-1.0, "another boot.1", lease_guard.now() + HOUR)))


async def test_what_a_server_tells():
    """It is the time until which it holds the lease, by the clock of this machine."""
    store = SimpleNamespace(is_shared=True)
    attempt = Attempt(store, None, None, None, asyncio.Event(), None)
    renewed = lease_guard.now()
    told = attempt.promise(renewed)
    assert told.until == renewed + HOLD_SECONDS
    assert told.clock == lease_guard.clock()
    assert 0 < told.seconds <= HOLD_SECONDS


def test_a_clock_that_cannot_be_known(monkeypatch, tmp_path):
    """Without a descriptor left, or where the system does not tell it, it is nobody else's."""
    monkeypatch.setattr(lease_guard, "_BOOT", tmp_path / "none")
    unknown = lease_guard.clock.__wrapped__
    assert unknown() != unknown()
    lease_guard.clock.cache_clear()
    try:
        assert lease_guard.renewed_until(HOUR).clock == lease_guard.clock()
    finally:
        lease_guard.clock.cache_clear()
