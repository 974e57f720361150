"""A connection on a socket and a pool that the test plays."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import msgspec
from aiohttp import WSMsgType

from conftest import picture
from mataserver.engines.work import Outcome, Timing
from mataserver.http.budget import Budget, inflight_limit
from mataserver.http.lifecycle import Lifecycle
from mataserver.http.stream_channel import StreamSettings
from mataserver.http.stream_connection import Connection
from mataserver.metrics import Metrics
from mataserver.params.table import Params
from mataserver.serving.background import BACKGROUND
from mataserver.serving.handle import Handle
from mataserver.serving.observers import Observers
from mataserver.serving.sessions import Session

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

    async def send_frame(self, data, kind):
        self.sent.append(data)
        if kind is not WSMsgType.PING:
            await self.taken.wait()

    async def close(self, *, code, message, drain):
        self.sent.append((code, message, drain))
        await self.taken.wait()
        self.closed = True


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


def standing_on(settings):
    """Return a connection with these settings, and what it stands on."""
    plan = SimpleNamespace(spec=SimpleNamespace(name="m", task="detect"))
    pool, metrics = Pool(), Metrics()
    budget, lifecycle = Budget(inflight_limit(settings)), Lifecycle()
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


async def received(parts):
    """Send a frame, and let everyone do with it what can be done."""
    before = parts.session.frames
    parts.socket.inbox.put_nowait(message())
    while parts.session.frames == before:
        await asyncio.sleep(0)
    for _ in range(10):
        await asyncio.sleep(0)


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
