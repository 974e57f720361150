"""Background work: when it has its turn beside requests that somebody waits for."""

from __future__ import annotations

import asyncio

import pytest

from mataserver.serving.background import (
    BACKGROUND,
    IDLE_WAIT,
    MIN_PAUSE,
    QUIET,
    REQUESTS_PER_JOB,
    Background,
)


class Clock:
    """Seconds that a test sets."""

    now = 1_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def background(clock):
    return Background(clock)


def request(background):
    """Begin and end a request."""
    with background.foreground():
        pass


async def piece(background, clock, seconds=1.0):
    """Do a piece of background work."""
    async with background.turn():
        clock.now += seconds
        background.record_duration(seconds)


async def test_with_nobody_else_background_work_runs_side_by_side(background):
    """Before any request, and when none came for long, no piece waits for another."""
    async with background.turn() as behind, background.turn():
        assert behind


async def test_a_piece_waits_until_a_request_has_ended(background, clock):
    """While a request is under way a piece waits; it goes as soon as none is."""
    order = []

    async def work():
        async with background.turn():
            order.append("piece")

    background.foreground_started()
    waiting = asyncio.create_task(work())
    for _ in range(5):
        await asyncio.sleep(0)
    order.append("request")
    background.foreground_ended()
    await waiting
    assert order == ["request", "piece"]


async def test_beside_requests_pieces_go_one_at_a_time(background, clock):
    """While others ask now and then, a second piece waits for the end of the first one."""
    request(background)
    async with background.turn():
        assert background.wait(clock.now) is None
    assert background.wait(clock.now) == 0.0


@pytest.mark.parametrize(("took", "pause"), [(0.01, MIN_PAUSE), (1.0, REQUESTS_PER_JOB * 1.0)])
async def test_a_piece_that_kept_somebody_waiting_has_a_long_pause_behind_it(
    background, clock, took, pause
):
    """One request that met a piece is made up for by as many as are spared, or by time."""
    request(background)
    async with background.turn():
        request(background)
        clock.now += took
        background.record_duration(took)
    background.foreground_started()
    assert background.wait(clock.now) == pause
    background.foreground_ended()
    for _ in range(REQUESTS_PER_JOB):
        request(background)
    assert background.wait(clock.now) == 0.0


async def test_of_the_requests_few_meet_a_piece_whenever_they_come(background, clock):
    """If each job is met by the next request, at most one of ``REQUESTS_PER_JOB`` meets one."""
    met = 0
    for _ in range(1_000):
        request(background)
        if background.wait(clock.now) == 0.0:
            met += 1
            async with background.turn():
                background.record_duration(60.0)
                request(background)
    assert 0 < met <= 1_000 / REQUESTS_PER_JOB + 1


async def test_pieces_that_nobody_meets_need_no_pause(background, clock):
    """Between requests that leave gaps, a piece goes in each of them."""
    for _ in range(100):
        request(background)
        assert background.wait(clock.now) == 0.0
        await piece(background, clock)


async def test_requests_that_never_rest_do_not_shut_it_out(background, clock):
    """With requests under way all the time a piece goes when it has waited, and not last."""
    background.foreground_started()
    since = clock.now
    assert background.wait(since) == IDLE_WAIT
    clock.now += IDLE_WAIT
    assert background.wait(since) == 0.0


async def test_a_piece_in_the_midst_of_others_is_not_put_last_again(background, clock):
    """Who was patient for long enough queues like everybody else."""
    background.foreground_started()
    waiting = background.turn()
    entering = asyncio.create_task(waiting.__aenter__())
    await asyncio.sleep(0)
    clock.now += IDLE_WAIT
    background.foreground_started()
    background.foreground_ended()
    background._changed.set()
    assert await entering is False
    await waiting.__aexit__(None, None, None)


async def test_when_it_is_quiet_debts_are_forgotten(background, clock):
    """After some seconds without a request nothing is left of an earlier pause."""
    request(background)
    async with background.turn():
        for _ in range(50):
            request(background)
        background.record_duration(60.0)
    assert background.wait(clock.now) == QUIET
    clock.now += QUIET
    assert background.wait(clock.now) == 0.0


async def test_a_piece_that_is_given_up_while_it_waits_lets_the_next_one_wait(background):
    """A client that leaves before its turn takes nobody's."""
    background.foreground_started()
    first, second = (asyncio.create_task(background.turn().__aenter__()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    background.foreground_ended()
    assert await asyncio.wait_for(second, 5)


async def test_background_work_is_none_of_the_others(background, clock):
    """What itself can wait is not waited for."""
    BACKGROUND.set(True)
    with background.foreground():
        assert background.wait(clock.now) == 0.0
