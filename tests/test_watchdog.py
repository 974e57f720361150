"""The watchdog: a worker that owes something and makes no progress is noticed, no other."""

from __future__ import annotations

import asyncio

import pytest

from mataserver.engines.watchdog import Watchdog
from simulated_time import simulated


@simulated
async def test_a_worker_that_owes_and_stands_still_is_noticed():
    """Once the patience is over without an answer, the worker counts as hung."""
    hung = asyncio.Event()
    watchdog = Watchdog(20.0, hung.set)
    watchdog.add_pending(1)
    await asyncio.sleep(19.99)
    assert not hung.is_set()
    await asyncio.sleep(0.02)
    assert hung.is_set()


@simulated
async def test_an_idle_worker_is_left_alone():
    """A worker that owes nothing may be quiet for ever."""
    hung = asyncio.Event()
    watchdog = Watchdog(20.0, hung.set)
    watchdog.add_pending(1)
    watchdog.record_answer(1)
    await asyncio.sleep(3600)
    assert not hung.is_set()


@simulated
async def test_progress_on_anything_counts():
    """A request may wait long behind others, as long as those are answered."""
    hung = asyncio.Event()
    watchdog = Watchdog(20.0, hung.set)
    watchdog.add_pending(0)
    for number in range(1, 8):
        watchdog.add_pending(number)
        await asyncio.sleep(6)
        watchdog.record_answer(number)
    await asyncio.sleep(19.99)
    assert not hung.is_set()
    await asyncio.sleep(0.02)
    assert hung.is_set()


@simulated
async def test_who_says_for_ever_that_it_decodes_is_not_believed():
    """The word counts for as long as the images that are owed may take to decode."""
    hung = asyncio.Event()
    watchdog = Watchdog(1.0, hung.set, decode_timeout=10.0)
    watchdog.add_pending(1, images=2)
    begun = asyncio.get_running_loop().time()
    while not hung.is_set():
        watchdog.record_progress()
        watchdog.record_answer(99)  # nobody asked that
        await asyncio.sleep(0.1)
    assert asyncio.get_running_loop().time() - begun == pytest.approx(21.0, abs=0.2)


@simulated
async def test_a_stopped_watchdog_is_silent():
    """Nothing rings for a worker that is gone."""
    hung = asyncio.Event()
    watchdog = Watchdog(20.0, hung.set)
    watchdog.add_pending(1)
    watchdog.stop()
    await asyncio.sleep(3600)
    assert not hung.is_set()


@simulated
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


@simulated
async def test_a_slow_answer_stretches_the_limit_within_bounds():
    """A step may take twice the slowest one that went well, up to four times the first limit."""
    watchdog = Watchdog(20.0, print)
    watchdog.stop()
    await answered(watchdog, 0.02)
    assert watchdog.limit == 20.0
    watchdog = Watchdog(1.0, lambda: None)
    await answered(watchdog, 0.75, succeeded=False)
    assert watchdog.limit == 1.0
    await answered(watchdog, 0.75)
    assert watchdog.limit == pytest.approx(1.5)
    await answered(watchdog, 0.5)
    assert watchdog.limit == pytest.approx(1.5)
    await answered(watchdog, 3.0)
    assert watchdog.limit == 4.0


@simulated
async def test_who_answered_slowly_once_is_still_noticed():
    """A worker that hangs after a slow answer is given up a little later: when it was learned."""
    hung = asyncio.Event()
    watchdog = Watchdog(1.0, hung.set)
    await answered(watchdog, 0.75)
    watchdog.add_pending(2)
    await asyncio.sleep(1.49)
    assert not hung.is_set()
    await asyncio.sleep(0.02)
    assert hung.is_set()
