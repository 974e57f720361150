"""A connection on a socket that the test plays: bugs, cancellation, and what is left behind."""

from __future__ import annotations

import asyncio
import contextvars
from types import SimpleNamespace

import msgspec
import pytest
from aiohttp import WSMsgType

from conftest import picture
from mataserver.config import Settings
from mataserver.engines.work import Outcome, Timing
from mataserver.engines.worker_errors import (
    DecodeTimeoutError,
    Failure,
    NotDispatchedError,
    WorkerReplacedError,
)
from mataserver.errors import MataError, Unavailable
from mataserver.http import stream
from mataserver.http.budget import Budget
from mataserver.http.lifecycle import Lifecycle
from mataserver.http.stream_channel import PING_WINDOW, CloseReason, StreamSettings
from mataserver.http.stream_connection import Connection
from mataserver.metrics import Metrics
from mataserver.params import Params
from mataserver.serving.background import BACKGROUND
from mataserver.serving.handle import Handle
from mataserver.serving.observers import Observers
from mataserver.serving.sessions import Session
from stream_peers import stream_tasks

PNG = picture()


class Socket:
    """A server's socket: it receives what the test puts into ``inbox`` and keeps what is sent."""

    ws_protocol = None

    def __init__(self):
        self.inbox = asyncio.Queue()
        self.sent = []
        self.taken = asyncio.Event()
        self.taken.set()
        self.closed = False

    async def receive(self):
        message = await self.inbox.get()
        if isinstance(message, Exception):
            raise message
        return message

    async def send_frame(self, data, _opcode):
        self.sent.append(data)
        await self.taken.wait()

    async def close(self, *, code, message, drain):
        self.sent.append((code, message, drain))
        await self.taken.wait()
        self.closed = True

    async def ping(self, payload):
        self.sent.append(payload)


class Pool:
    """A pool with one model, which raises ``error`` or answers when ``ready`` is set.

    It is a slow one, as far as ``timing`` tells.
    """

    def __init__(self):
        self.ready = asyncio.Event()
        self.entered = asyncio.Event()
        self.error = None
        self.count = 0
        self.fresh = False
        self.timing = Timing(infer=50.0)
        self.failure = None
        self.waited = 0.0
        self.keeps_state = False
        self.end = lambda: None

    async def infer(self, _plan, _job):
        self.entered.set()
        self.count += 1
        try:
            await self.ready.wait()
        finally:
            self.end()
        if self.error is not None:
            raise self.error
        return Outcome(b'{"detections":[]}', self.timing, self.failure, self.fresh), self.waited

    def begin(self, _plan, _job, _take):
        """Begin nothing without a task."""

    def stateful(self, _plan):
        return self.keeps_state


@pytest.fixture
async def parts():
    """A connection that is about to run, and what it stands on."""
    return standing_on(Settings())


def standing_on(settings):
    """Return a connection with these settings, and what it stands on."""
    plan = SimpleNamespace(spec=SimpleNamespace(name="m", task="detect"))
    pool, metrics = Pool(), Metrics()
    budget, lifecycle = Budget(settings.max_inflight_mb * 1e6), Lifecycle()
    sessions = SimpleNamespace(ttl=300.0, is_only_connected=lambda _session: True)
    terms = StreamSettings(
        sessions,
        budget,
        lifecycle,
        Observers(metrics, infer=False),
        settings.ping_interval,
        settings.unread_timeout,
        settings.drain_timeout,
    )
    session = Session(Handle(pool, metrics, 64, lambda: plan), Params(), "sess_0", None, 0.0)
    socket = Socket()
    return SimpleNamespace(
        pool=pool,
        terms=terms,
        budget=budget,
        lifecycle=lifecycle,
        sessions=sessions,
        session=session,
        socket=socket,
        connection=Connection(terms, session, socket),
    )


def message(data=PNG):
    """Return a received binary message."""
    return SimpleNamespace(type=WSMsgType.BINARY, data=data)


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
    "error", [DecodeTimeoutError(10.0, 0), WorkerReplacedError(), Unavailable("full")]
)
async def test_what_is_wrong_with_one_frame_ends_no_connection(parts, error):
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
    assert failed == {"detail": error.detail, "frame_id": 0, "type": "error"}
    assert (found["frame_id"], "reset" in found) == (1, False)


class Prompt:
    """What a model that is ready was given and asked to give back; ``seen`` are the priorities."""

    def __init__(self, parts):
        self.takes, self.back, self.seen = [], [], []
        parts.pool.begin = self.begin

    def begin(self, _plan, _job, take):
        self.seen.append(BACKGROUND.get())
        self.takes.append(take)
        return lambda: self.back.append(take)


FOUND = Outcome(b'{"detections":[]}', Timing(infer=50.0))


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
    """Of two frames, one under way and one waiting, the waiting one is dropped at the end."""
    running = asyncio.create_task(parts.connection.run())
    parts.socket.inbox.put_nowait(message())
    await parts.pool.entered.wait()
    parts.socket.inbox.put_nowait(message())
    while parts.session.frames < 2:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    parts.connection.request_close(1000, "session deleted")
    assert await running == (1000, "session deleted")
    assert (parts.session.dropped, parts.session.results) == (1, 0)


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


async def received(parts):
    """Send a frame, and let everyone do with it what can be done."""
    before = parts.session.frames
    parts.socket.inbox.put_nowait(message())
    while parts.session.frames == before:
        await asyncio.sleep(0)
    for _ in range(10):
        await asyncio.sleep(0)


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


async def begun(parts):
    """Run the connection and answer its first frame; the next ones find the model busy."""
    parts.pool.ready.set()
    running = asyncio.create_task(parts.connection.run())
    await received(parts)
    parts.pool.ready.clear()
    return running


def answers(socket):
    """Return the messages that were sent, without the pings."""
    return [msgspec.json.decode(each) for each in socket.sent if each[:1] == b"{"]


def ponged(parts):
    """Answer the last ping, and so each one before it."""
    pings = [each for each in parts.socket.sent if each[:1] != b"{"]
    parts.socket.inbox.put_nowait(SimpleNamespace(type=WSMsgType.PONG, data=pings[-1]))


async def settled():
    """Let everyone do what can be done."""
    for _ in range(20):
        await asyncio.sleep(0)


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
