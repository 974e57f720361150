"""The watchdog: a worker that owes something and makes no progress is noticed, no other."""

from __future__ import annotations

import asyncio

from mataserver.engines.watchdog import Watchdog


async def test_a_worker_that_owes_and_stands_still_is_noticed():
    """Once the patience is over without an answer, the worker counts as hung."""
    hung = asyncio.Event()
    watchdog = Watchdog(0.05, hung.set)
    watchdog.add_pending(1)
    await asyncio.wait_for(hung.wait(), 5)


async def test_an_idle_worker_is_left_alone():
    """A worker that owes nothing may be quiet for ever."""
    hung = asyncio.Event()
    watchdog = Watchdog(0.05, hung.set)
    watchdog.add_pending(1)
    watchdog.record_answer(1)
    await asyncio.sleep(0.15)
    assert not hung.is_set()


async def test_progress_on_anything_counts():
    """A request may wait long behind others, as long as those are answered."""
    hung = asyncio.Event()
    watchdog = Watchdog(0.2, hung.set)
    watchdog.add_pending(0)
    for number in range(1, 8):
        watchdog.add_pending(number)
        await asyncio.sleep(0.06)
        watchdog.record_answer(number)
    assert not hung.is_set()
    await asyncio.wait_for(hung.wait(), 5)


async def test_who_says_for_ever_that_it_decodes_is_not_believed():
    """The word counts for as long as the images that are owed may take to decode."""
    hung = asyncio.Event()
    watchdog = Watchdog(0.1, hung.set, decode_timeout=0.1)
    watchdog.add_pending(1, images=2)

    async def say():
        while not hung.is_set():
            watchdog.record_progress()
            watchdog.record_answer(99)  # nobody asked that
            await asyncio.sleep(0.01)

    await asyncio.wait_for(say(), 5)


async def test_a_stopped_watchdog_is_silent():
    """Nothing rings for a worker that is gone."""
    hung = asyncio.Event()
    watchdog = Watchdog(0.05, hung.set)
    watchdog.add_pending(1)
    watchdog.stop()
    await asyncio.sleep(0.15)
    assert not hung.is_set()


async def test_what_a_backend_states_holds_from_the_first_step_on():
    """More than the server's limit counts, less does not, and never more than an hour."""
    watchdog = Watchdog(60.0, print)
    watchdog.raise_limit(20.0)
    assert watchdog.limit == 60.0
    watchdog.raise_limit(1000.0)
    assert watchdog.limit == 1000.0
    watchdog.raise_limit(1e18)
    assert watchdog.limit == 3600.0


async def answered(watchdog, seconds, *, succeeded=True):
    """Let an answer take its time."""
    watchdog.add_pending(1)
    await asyncio.sleep(seconds)
    watchdog.record_answer(1, succeeded=succeeded)


async def test_a_slow_answer_stretches_the_limit_within_bounds():
    """A step may take twice the slowest one that went well, up to four times the first limit."""
    watchdog = Watchdog(20.0, print)
    watchdog.stop()
    await answered(watchdog, 0.02)
    assert watchdog.limit == 20.0
    watchdog = Watchdog(0.1, lambda: None)
    await answered(watchdog, 0.08, succeeded=False)
    assert watchdog.limit == 0.1
    await answered(watchdog, 0.08)
    assert 0.16 <= watchdog.limit <= 0.4
    await answered(watchdog, 0.3)
    assert watchdog.limit == 0.4


async def test_who_answered_slowly_once_is_still_noticed():
    """A worker that hangs after a slow answer is given up a little later."""
    hung = asyncio.Event()
    watchdog = Watchdog(0.4, hung.set)
    await answered(watchdog, 0.36)
    watchdog.add_pending(2)
    await asyncio.sleep(0.45)
    assert not hung.is_set()
    await asyncio.wait_for(hung.wait(), 5)
