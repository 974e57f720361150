"""The watchdog: a worker that owes something and makes no progress is noticed, no other."""

from __future__ import annotations

import asyncio

from mataserver.engines.watchdog import Watchdog


async def test_a_worker_that_owes_and_stands_still_is_noticed():
    """Once the patience is over without an answer, the worker counts as hung."""
    hung = asyncio.Event()
    watchdog = Watchdog(0.05, hung.set)
    watchdog.expect(1)
    await asyncio.wait_for(hung.wait(), 5)


async def test_an_idle_worker_is_left_alone():
    """A worker that owes nothing may be quiet for ever."""
    hung = asyncio.Event()
    watchdog = Watchdog(0.05, hung.set)
    watchdog.expect(1)
    watchdog.answered(1)
    await asyncio.sleep(0.15)
    assert not hung.is_set()


async def test_progress_on_anything_counts():
    """A request may wait long behind others, as long as those are answered."""
    hung = asyncio.Event()
    watchdog = Watchdog(0.2, hung.set)
    watchdog.expect(0)
    for number in range(1, 8):
        watchdog.expect(number)
        await asyncio.sleep(0.06)
        watchdog.answered(number)
    assert not hung.is_set()
    await asyncio.wait_for(hung.wait(), 5)


async def test_a_stopped_watchdog_is_silent():
    """Nothing rings for a worker that is gone."""
    hung = asyncio.Event()
    watchdog = Watchdog(0.05, hung.set)
    watchdog.expect(1)
    watchdog.stop()
    await asyncio.sleep(0.15)
    assert not hung.is_set()
