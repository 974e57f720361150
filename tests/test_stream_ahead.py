"""Frames that are sent ahead to the model, and the order of their answers."""

from __future__ import annotations

import asyncio
import contextvars

import pytest

from mataserver.config import Settings
from mataserver.engines.work import Outcome, Timing
from mataserver.engines.worker_errors import (
    Failure,
    NotDispatchedError,
    WorkerReplacedError,
)
from mataserver.errors import MataError
from mataserver.serving.background import BACKGROUND
from stream_connections import (
    FOUND,
    PNG,
    Prompt,
    answers,
    begun,
    ponged,
    received,
    settled,
    standing_on,
)
from stream_peers import stream_tasks


@pytest.fixture
async def parts():
    """A connection that is about to run, and what it stands on."""
    return standing_on(Settings())


async def test_a_model_that_is_ready_is_asked_without_a_task(parts):
    """Its answers come in whatever context: the next frame is asked in the connection's own."""
    prompt = Prompt(parts)
    running = asyncio.create_task(parts.connection.run())
    await received(parts)
    await received(parts)
    assert (len(prompt.takes), parts.budget.taken) == (1, 2 * len(PNG))
    elsewhere = contextvars.copy_context()
    elsewhere.run(lambda: BACKGROUND.set(True))
    elsewhere.run(prompt.takes[0], FOUND, 0.0)
    assert prompt.seen == [False, False]
    await settled()
    prompt.takes[1](MataError("no", status=400), 0.0)
    await settled()
    assert parts.budget.taken == parts.pool.count == 0
    parts.connection.request_close(1000, "enough")
    assert await running == (1000, "enough")
    assert [each["frame_id"] for each in answers(parts.socket)] == [0, 1]
    assert prompt.back == []


@pytest.mark.parametrize("lost", [WorkerReplacedError(), NotDispatchedError()])
async def test_a_frame_that_a_ready_model_lost_goes_to_the_next_worker(parts, lost):
    """It is asked for again, in a task."""
    prompt = Prompt(parts)
    running = asyncio.create_task(parts.connection.run())
    await received(parts)
    parts.pool.ready.set()
    prompt.takes[0](lost, 0.0)
    await settled()
    parts.connection.request_close(1000, "enough")
    assert await running == (1000, "enough")
    assert [each["frame_id"] for each in answers(parts.socket)] == [0]
    assert (parts.pool.count, parts.budget.taken) == (1, 0)


@pytest.mark.parametrize("how", ["lost", "unloaded"])
async def test_no_newer_frame_comes_before_one_that_waits_for_the_model(parts, how):
    """It may keep the state of its sessions once it is there, though the one before did not."""
    prompt, quick = Prompt(parts), Outcome(b'{"detections":[]}', Timing(infer=1.0))
    running = asyncio.create_task(parts.connection.run())
    await received(parts)
    prompt.takes[0](quick, 0.0)
    await settled()
    ponged(parts)
    if how == "lost":
        await received(parts)
        prompt.takes[1](WorkerReplacedError(), 0.0)
    else:
        parts.pool.begin, parts.pool.keeps_state = lambda *_: None, True
        await received(parts)
    await settled()
    parts.pool.begin = prompt.begin  # it is ready, and whoever waited for that has not gone on yet
    given = len(prompt.takes)
    await received(parts)
    assert (parts.pool.count, len(prompt.takes)) == (1, given)
    parts.pool.ready.set()
    await settled()
    assert len(prompt.takes) == given + 1
    parts.connection.request_close(1000, "enough")
    assert await running == (1000, "enough")
    assert [each["frame_id"] for each in answers(parts.socket)] == [0, 1]


async def test_a_frame_of_a_ready_model_is_taken_back_at_the_end(parts):
    """Nobody waits for it; what is told of it later changes nothing."""
    prompt = Prompt(parts)
    running = asyncio.create_task(parts.connection.run())
    await received(parts)
    parts.connection.request_close(1000, "session deleted")
    assert await running == (1000, "session deleted")
    assert prompt.back == prompt.takes
    assert stream_tasks() == []
    assert parts.budget.taken == 0


async def test_the_next_frame_is_inferred_while_an_answer_is_sent(parts):
    """A client that is slow to take an answer has one more inferred meanwhile; they keep order."""
    parts.pool.ready.set()
    parts.socket.taken.clear()
    running = asyncio.create_task(parts.connection.run())
    for _ in range(3):
        await received(parts)
    assert parts.pool.count == 2
    assert len(parts.socket.sent) == 1
    parts.socket.taken.set()
    while parts.session.results < 3:
        await asyncio.sleep(0)
    parts.connection.request_close(1000, "enough")
    await running
    assert [each["frame_id"] for each in answers(parts.socket)] == [0, 1, 2]
    assert parts.session.dropped == 0
    assert parts.budget.taken == 0


async def test_a_slow_frame_is_inferred_alone(parts):
    """While a slow model works, the next frame waits where a newer one can replace it."""
    running = await begun(parts)
    for _ in range(4):
        await received(parts)
    assert (parts.pool.count, parts.session.dropped) == (2, 2)
    parts.connection.request_close(1000, "enough")
    await running


async def test_a_quick_frame_has_its_successors_on_the_way(parts):
    """After a quick frame the worker is given three at a time; any more wait and are replaced."""
    parts.pool.timing = Timing(decode=2.0, infer=2.0, encode=0.9)
    running = await begun(parts)
    ponged(parts)
    for _ in range(5):
        await received(parts)
    assert (parts.pool.count, parts.session.dropped) == (4, 1)
    parts.pool.timing = Timing(decode=2.0, infer=2.0, encode=1.0)  # no longer
    parts.pool.ready.set()
    await settled()
    ponged(parts)
    await settled()
    parts.pool.ready.clear()
    ponged(parts)
    await received(parts)
    await received(parts)
    assert parts.pool.count == 6
    parts.connection.request_close(1000, "enough")
    await running
    assert [each["frame_id"] for each in answers(parts.socket)] == [0, 1, 2, 3, 5]


@pytest.mark.parametrize("reason", ["state", "wait", "company", "refused"])
async def test_one_frame_at_a_time_although_it_is_quick(parts, reason):
    """Where frames need their order, wait for others, or were no picture, one is given alone."""
    pool = parts.pool
    pool.timing = Timing(decode=0.1)
    pool.keeps_state = reason == "state"
    pool.waited = 5.0 if reason == "wait" else 0.0
    parts.sessions.is_only_connected = lambda _session: reason != "company"
    pool.failure = Failure(400, "no picture") if reason == "refused" else None
    running = await begun(parts)
    for _ in range(3):
        await received(parts)
    assert pool.count == 2
    parts.connection.request_close(1000, "enough")
    await running


async def test_answers_keep_the_order_of_their_frames(parts):
    """Of two frames that the worker was given, the one that is found first may be told last."""
    doors = {}

    async def infer(_plan, _job):
        parts.pool.count += 1
        if parts.pool.count > 1:
            door = doors[parts.pool.count] = asyncio.Event()
            await door.wait()
        return Outcome(b'{"detections":[]}', Timing(), None), 0.0

    parts.pool.infer = infer
    running = asyncio.create_task(parts.connection.run())
    for _ in range(3):
        await received(parts)
    doors[3].set()
    await settled()
    assert len(answers(parts.socket)) == 1
    doors[2].set()
    await settled()
    parts.connection.request_close(1000, "enough")
    await running
    assert [each["frame_id"] for each in answers(parts.socket)] == [0, 1, 2]


async def test_a_failure_is_the_end_also_of_what_is_on_the_way(parts):
    """When a model is lost with several frames, the first tells so; nothing is left behind."""
    parts.pool.timing = Timing()
    running = await begun(parts)
    for _ in range(5):
        await received(parts)
    parts.pool.error = MataError("The model cannot be loaded")
    parts.pool.ready.set()
    assert (await running).code == 1011
    assert (parts.pool.count, parts.session.dropped) == (4, 2)
    assert answers(parts.socket)[1]["detail"] == "The model cannot be loaded"
    assert (stream_tasks(), parts.budget.taken) == ([], 0)
