"""Replicas of one model that are added and given up while the others serve."""

from __future__ import annotations

import asyncio

import pytest

from mataserver.engines.worker_errors import WorkerDied
from mataserver.errors import MataError
from replica_rig import Rig


@pytest.fixture
async def rig():
    made = Rig()
    await made.replicas.load()
    yield made
    await made.replicas.close()


async def test_one_more_takes_its_part(rig):
    """It is asked as soon as it is there; the width tells of it then, and not before."""
    for _ in range(3):
        rig.send()
    rig.gate.clear()
    growing = asyncio.create_task(rig.replicas.grow())
    await asyncio.sleep(0)
    assert (rig.replicas.count, rig.replicas.width) == (4, 3)
    rig.gate.set()
    await growing
    assert (rig.replicas.count, rig.replicas.width) == (4, 4)
    rig.send()
    assert rig.load() == [1, 1, 1, 1]


async def test_one_more_that_cannot_be_started_changes_nothing(rig):
    """The others serve on, and the next try takes the same place."""
    rig.failure = MataError("no memory")
    with pytest.raises(MataError, match="no memory"):
        await rig.replicas.grow()
    assert (rig.replicas.count, rig.replicas.is_alive) == (3, True)
    rig.failure = None
    await rig.replicas.grow()
    assert (rig.replicas.count, sorted(rig.workers)) == (4, [0, 1, 2, 3])


async def test_one_that_is_given_up_ends_what_it_has(rig):
    """It gets nothing new, answers what it was given, and is closed then."""
    answers = [rig.send() for _ in range(3)]
    shrinking = asyncio.create_task(rig.replicas.shrink())
    await asyncio.sleep(0)
    given_up = rig.workers[2]
    for _ in range(4):
        rig.send()
    assert rig.load() == [3, 3, 1]
    assert (rig.replicas.count, given_up.closed, shrinking.done()) == (2, False, False)
    given_up.answer()
    assert await shrinking
    assert given_up.closed
    assert isinstance(answers[2][0], list)
    assert rig.replicas.pids == (100, 101)
    await rig.replicas.grow()
    rig.send()
    assert rig.load() == [3, 3, 1]


async def test_one_that_keeps_a_session_is_never_given_up():
    """Nor is the first one, which keeps what services keep; a session that ends lets go of its."""
    rig = Rig(stateful=True)
    await rig.replicas.load()
    for session in ("a", "b", "c"):
        rig.send(session=session)
    assert not await rig.replicas.shrink()
    await rig.replicas.close_session("b")
    rig.workers[1].answer()
    assert await rig.replicas.shrink()
    assert [rig.workers[i].closed for i in range(3)] == [False, True, False]
    rig.send(session="d")
    assert rig.load()[1] == 0
    await rig.replicas.close_session("c")
    await rig.replicas.close_session("d")


async def test_one_that_dies_as_it_is_given_up_is_not_missed(rig):
    """What it held fails; nobody starts it anew, and the others are the whole."""
    answers = [rig.send() for _ in range(3)]
    shrinking = asyncio.create_task(rig.replicas.shrink())
    await asyncio.sleep(0)
    rig.workers[2].die()
    assert await shrinking
    assert isinstance(answers[2][0], WorkerDied)
    assert (rig.replicas.count, rig.replicas.is_alive, rig.starts) == (2, True, [0, 1, 2])


async def test_the_whole_closes_one_that_is_being_given_up(rig):
    """Who gives one up and is cancelled leaves none behind."""
    for _ in range(3):
        rig.send()
    shrinking = asyncio.create_task(rig.replicas.shrink())
    await asyncio.sleep(0)
    shrinking.cancel()
    await asyncio.wait([shrinking])
    assert not rig.workers[2].closed
    await rig.replicas.close()
    assert [rig.workers[i].closed for i in range(3)] == [True] * 3


async def test_the_whole_closes_one_that_hangs_as_it_is_given_up(rig):
    """Who waits for its close and is cancelled leaves none behind either."""
    begun = asyncio.Event()

    async def hang():
        begun.set()
        await asyncio.Event().wait()

    rig.workers[2].close = hang
    shrinking = asyncio.create_task(rig.replicas.shrink())
    await begun.wait()
    shrinking.cancel()
    await asyncio.wait([shrinking])
    del rig.workers[2].close
    await rig.replicas.close()
    assert [rig.workers[i].closed for i in range(3)] == [True] * 3


@pytest.mark.parametrize("given_up", [True, False])
async def test_one_that_cannot_be_closed_keeps_none_open(rig, given_up):
    """``sys.exit`` in an engine is its failure: the others are closed, and the loop runs on.

    The one may still be running: whoever ends the whole ends it too.
    """
    terminated = []

    async def leave():
        raise SystemExit(3)

    rig.workers[2].close = leave
    rig.workers[2].terminate = terminated.append
    if given_up:
        assert await rig.replicas.shrink()
        assert rig.replicas.pids == (100, 101)
    with pytest.raises(MataError, match="1 of the model's workers could not be closed"):
        await rig.replicas.close()
    assert [rig.workers[i].closed for i in range(3)] == [True, True, False]
    for other in (0, 1):
        rig.workers[other].terminate = lambda _error: None
    end = MataError("the end")
    rig.replicas.terminate(end)
    assert terminated == [end]
    del rig.workers[2].close
    await rig.replicas.close()
    assert rig.workers[2].closed
