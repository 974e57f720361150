"""A connection on a socket that the test plays: bugs, cancellation, and what is left behind."""

from __future__ import annotations

import asyncio

import pytest

from mataserver.config import Settings
from mataserver.engines.worker_errors import (
    DecodeTimeoutError,
    WorkerReplacedError,
)
from mataserver.errors import MataError, Unavailable
from mataserver.http import stream
from mataserver.http.stream_channel import PING_WINDOW, CloseReason
from mataserver.http.stream_connection import Connection
from stream_connections import (
    PNG,
    Socket,
    answers,
    begun,
    message,
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


async def test_a_bug_in_a_task_ends_the_connection_and_is_logged(parts, caplog):
    """An exception that nobody foresaw is 1011 and stands in the log with its traceback."""
    parts.pool.error = RuntimeError("a bug")
    parts.pool.ready.set()
    parts.socket.inbox.put_nowait(message())
    assert (await parts.connection.run()).code == 1011
    assert "RuntimeError: a bug" in caplog.text
    assert stream_tasks() == []
    assert parts.budget.taken == 0


async def test_a_bug_while_leaving_is_logged_too(parts, caplog):
    """An exception in a task that is being ended for another reason is not lost."""

    def fail():
        raise RuntimeError("a bug")

    parts.pool.end = fail
    running = asyncio.create_task(parts.connection.run())
    parts.socket.inbox.put_nowait(message())
    await parts.pool.entered.wait()
    parts.connection.request_close(1000, "session deleted")
    assert await running == (1000, "session deleted")
    assert "RuntimeError: a bug" in caplog.text


@pytest.mark.parametrize(
    ("error", "later"),
    [
        (DecodeTimeoutError(10.0, 0), {}),
        (WorkerReplacedError(), {"retry_after": 1}),
        (Unavailable("full"), {}),
    ],
)
async def test_what_is_wrong_with_one_frame_ends_no_connection(parts, error, later):
    """An image that no decoder ends with, and a want that passes, cost their frame alone."""
    pool = parts.pool
    pool.error = error
    running = await begun(parts)
    await settled()
    pool.error = None
    pool.ready.set()
    ponged(parts)
    await received(parts)
    await settled()
    parts.connection.request_close(1000, "enough")
    assert await running == (1000, "enough")
    failed, found = answers(parts.socket)
    assert failed == {"detail": error.detail, "frame_id": 0, "type": "error"} | later
    assert (found["frame_id"], "reset" in found) == (1, False)


async def test_cancelled_in_the_middle_of_a_frame(parts):
    """A cancelled connection takes its tasks along and gives back the bytes that it held."""
    running = asyncio.create_task(parts.connection.run())
    parts.socket.inbox.put_nowait(message())
    await parts.pool.entered.wait()
    parts.socket.inbox.put_nowait(message())
    while not parts.socket.inbox.empty():
        await asyncio.sleep(0)
    assert parts.budget.taken >= len(PNG)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert stream_tasks() == []
    assert parts.budget.taken == 0
    assert parts.session.frames == 2


async def test_a_frame_that_waited_at_the_end_counts_as_dropped(parts):
    """Of two frames, one under way and one waiting, both are dropped at the end, each once."""
    running = asyncio.create_task(parts.connection.run())
    parts.socket.inbox.put_nowait(message())
    await parts.pool.entered.wait()
    parts.socket.inbox.put_nowait(message())
    while parts.session.frames < 2:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    parts.connection.request_close(1000, "session deleted")
    assert await running == (1000, "session deleted")
    assert (parts.session.dropped, parts.session.results) == (2, 0)


async def test_draining_lets_the_frame_under_way_be_answered(parts):
    """While the server drains, 1001 waits for the frame under way, and takes no other."""
    running = asyncio.create_task(parts.connection.run())
    parts.socket.inbox.put_nowait(message())
    await parts.pool.entered.wait()
    parts.lifecycle.stopping.set()
    parts.connection.request_close(1001, "the server is shutting down")
    parts.socket.inbox.put_nowait(message())
    for _ in range(10):
        await asyncio.sleep(0)
    assert not running.done()
    parts.pool.ready.set()
    assert (await running).code == 1001
    assert parts.session.results == 1
    assert b'"frame_id":0' in parts.socket.sent[0]
    assert len(parts.socket.sent) == 2  # the result and its ping


async def test_a_reset_that_could_not_be_told_is_told_to_the_next_connection(parts):
    """A lost state is in the next result that arrives, though its own result did not."""
    parts.pool.ready.set()
    running = asyncio.create_task(parts.connection.run())
    await received(parts)
    parts.socket.taken.clear()
    await received(parts)  # its answer is never taken
    parts.pool.fresh = True
    await received(parts)
    assert parts.pool.count == 3
    parts.connection.request_close(1000, "closed by the client")
    await running
    parts.pool.fresh = False
    parts.socket = Socket()
    connection = Connection(parts.terms, parts.session, parts.socket)
    running = asyncio.create_task(connection.run())
    await received(parts)
    await received(parts)
    connection.request_close(1000, "enough")
    await running
    assert [each.get("reset") for each in answers(parts.socket)] == [True, None]


async def test_a_first_result_that_is_never_taken_lost_no_state(parts):
    """A session whose connection ends while its first result is sent begins anew without reset."""
    parts.pool.fresh = True
    parts.pool.ready.set()
    parts.socket.taken.clear()
    running = asyncio.create_task(parts.connection.run())
    await received(parts)
    assert len(parts.socket.sent) == 1
    parts.connection.request_close(1000, "closed by the client")
    await running
    assert not parts.session.reset


async def test_a_failure_is_told_before_the_next_frame_is_taken(parts):
    """After a failure that may end the connection no frame is inferred until the client knows."""
    parts.pool.error = MataError("The model cannot be loaded")
    parts.pool.ready.set()
    parts.socket.taken.clear()
    running = asyncio.create_task(parts.connection.run())
    parts.socket.inbox.put_nowait(message())
    parts.socket.inbox.put_nowait(message())
    for _ in range(20):
        await asyncio.sleep(0)
    parts.socket.taken.set()
    assert (await running).code == 1011
    assert (parts.pool.count, parts.session.dropped) == (1, 1)


async def test_four_unanswered_pings_pause_the_inference(parts):
    """Answers that wait to be sent count like those whose ping is not answered yet."""
    parts.pool.ready.set()
    running = asyncio.create_task(parts.connection.run())
    for _ in range(9):
        await received(parts)
    assert parts.pool.count == parts.session.results == PING_WINDOW
    ponged(parts)
    while parts.session.results <= PING_WINDOW:
        await asyncio.sleep(0)
    parts.connection.request_close(1000, "enough")
    await running
    assert parts.session.dropped == 4


async def test_a_blocked_answer_is_noticed_without_a_ping(parts):
    """A client that does not take an answer is given up, though no ping could be sent yet."""
    parts = standing_on(Settings(unread_timeout=0.1, ping_interval=10_000.0))
    parts.pool.ready.set()
    parts.socket.taken.clear()
    parts.socket.inbox.put_nowait(message())
    assert (await parts.connection.run()).code == 1001
    assert len(parts.socket.sent) == 1
    assert stream_tasks() == []


async def test_a_connection_that_sends_and_gets_nothing_is_pinged(parts):
    """Without frames a ping goes out each interval, each with a payload of its own."""
    parts = standing_on(Settings(unread_timeout=10_000.0, ping_interval=0.01))
    running = asyncio.create_task(parts.connection.run())
    async with asyncio.timeout(20):
        while len(parts.socket.sent) < 5:
            await asyncio.sleep(0.01)
    parts.connection.request_close(1000, "enough")
    await running
    assert len(set(parts.socket.sent)) == len(parts.socket.sent)


async def test_closing_outlives_a_cancelled_send():
    """The closing message may trip over a send that was cancelled: that cancels nobody."""
    socket = Socket()

    async def trip():
        raise asyncio.CancelledError

    socket.taken.wait = trip
    await stream._close(socket, CloseReason(1001, "why"), object())
    assert socket.sent == [(1001, b"why", False)]


async def test_closing_can_be_cancelled():
    """When the connection is lost while the goodbye is waited for, the handler ends."""
    socket = Socket()
    socket.taken.clear()
    closing = asyncio.create_task(stream._close(socket, CloseReason(1001, "why"), object()))
    while not socket.sent:
        await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
