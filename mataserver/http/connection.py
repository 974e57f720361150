"""One open socket of a streaming session: its four tasks, its flow control, its messages.

One inference runs at a time; while it runs the newest frame waits in a one-slot inbox and replaces
the one before. A ping follows each answer, and inference pauses while four are unanswered, so that
a client that reads slowly holds up nobody but itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from aiohttp import WebSocketError, WSMsgType
from msgspec import UNSET, Struct, UnsetType

from mataserver.engines.work import Job, WorkerDied
from mataserver.errors import MataError, Unavailable
from mataserver.http import codec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aiohttp import WSMessage, web

    from mataserver.engines.work import Format, Outcome
    from mataserver.http.routing import State
    from mataserver.sessions import Session

MSGPACK_PROTOCOL = "mata.v1.msgpack"
WINDOW = 4
"""Unanswered pings that pause inference."""
TURN = 64
"""Messages that one connection handles before the others get their turn."""

NORMAL, GOING_AWAY, INTERNAL = 1000, 1001, 1011

log = logging.getLogger("mataserver.stream")


class Farewell(NamedTuple):
    """Why a connection ends: a WebSocket close code and its reason."""

    code: int
    reason: str


class StreamError(Struct):
    """What a client is told about a frame or a message that could not be served."""

    detail: str
    frame_id: int | UnsetType = UNSET
    type: str = "error"


class StreamToken(Struct):
    """A piece of the text that the model is making for a frame."""

    text: str
    frame_id: int
    type: str = "token"


class Said(Struct):
    """A text message of a client."""

    type: str


@dataclass(slots=True)
class Frame:
    """A received frame and its share of the budget of bytes in flight."""

    number: int
    image: bytes
    share: codec.Share


class Connection:
    """One open socket of a session.

    Four tasks: one reads, one infers and answers, one pings, one watches the time. Whichever finds
    a reason to end the connection sets the farewell; ``run`` then ends the others.
    """

    def __init__(self, state: State, session: Session, socket: web.WebSocketResponse) -> None:
        self._state = state
        self._session = session
        self._socket = socket
        self._form: Format = "msgpack" if socket.ws_protocol == MSGPACK_PROTOCOL else "json"
        self._received = state.metrics.frames.labels(session.model)
        self._dropped = state.metrics.dropped.labels(session.model)
        self._inbox: Frame | None = None
        self._arrived = asyncio.Event()
        self._answered = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._pings: dict[bytes, float] = {}
        self._ping_count = 0
        self._last_ping = self._last_frame = time.monotonic()
        self._farewell: asyncio.Future[Farewell] = asyncio.get_running_loop().create_future()

    def leave(self, code: int, reason: str) -> None:
        """Have the connection end; with 1001 a frame under way is answered first."""
        if not self._farewell.done():
            self._farewell.set_result(Farewell(code, reason))

    async def run(self) -> Farewell:
        """Serve until either side ends; return why. No task outlives it."""
        loops = (self._read(), self._work(), self._keep_alive(), self._watch())
        tasks = [asyncio.create_task(each) for each in loops]
        for task in tasks:
            task.add_done_callback(self._ended)
        try:
            farewell = await self._farewell
            if farewell.code == GOING_AWAY and self._state.draining:
                await self._finish_frame()
            return farewell
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._empty_inbox()

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Log what ended a task; a bug ends the connection."""
        if task.cancelled() or task.exception() is None:
            return
        log.error("stream of %s failed", self._session.id, exc_info=task.exception())
        self.leave(INTERNAL, "internal error")

    async def _finish_frame(self) -> None:
        """Let the frame that is being inferred be answered before the server goes."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._state.settings.drain_timeout / 2):
                await self._idle.wait()

    # in

    async def _read(self) -> None:
        count = 0
        while not self._farewell.done():
            message = await self._socket.receive()
            await self._handle(message)
            count += 1
            if count % TURN == 0:
                await asyncio.sleep(0)

    async def _handle(self, message: WSMessage) -> None:
        kind = message.type
        if kind is WSMsgType.BINARY:
            await self._frame(message.data)
        elif kind is WSMsgType.TEXT:
            await self._text(message.data)
        elif kind is WSMsgType.PING:
            await self._pong(message.data)
        elif kind is WSMsgType.PONG:
            self._ponged(bytes(message.data))
        elif kind is WSMsgType.ERROR and isinstance(message.data, WebSocketError):
            code = message.data.code
            log.info("stream of %s: %s (%d)", self._session.id, message.data, code)
            self.leave(code, "protocol error")
        else:
            self.leave(NORMAL, "closed by the client")

    async def _frame(self, data: bytes) -> None:
        """Put a frame into the inbox, in place of the one that waits there."""
        if self._inbox is not None:
            await asyncio.sleep(0)  # frames that come in one burst: let the worker take the first
        if self._farewell.done():
            return
        session = self._session
        number = session.frames
        session.frames += 1
        self._last_frame = time.monotonic()
        self._received.inc()
        share = codec.Share(self._state)
        try:
            share.take(len(data))
        except Unavailable as error:
            await self._send(StreamError(error.detail, number))
            return
        self._empty_inbox()
        self._inbox = Frame(number, data, share)
        self._arrived.set()

    def _empty_inbox(self) -> None:
        if self._inbox is None:
            return
        self._inbox.share.give_back()
        self._inbox = None
        self._session.dropped += 1
        self._dropped.inc()

    async def _text(self, text: str) -> None:
        try:
            said = msgspec.json.decode(text, type=Said)
        except (msgspec.DecodeError, RecursionError, UnicodeError):
            await self._send(StreamError('a text message must be {"type": "ping"}'))
            return
        if said.type == "ping":
            await self._send({"type": "pong"})
        else:
            await self._send(StreamError(f"unknown message type {said.type[:40]!r}"))

    async def _pong(self, payload: bytes) -> None:
        with self._unless_gone():
            await self._socket.pong(payload)

    def _ponged(self, payload: bytes) -> None:
        """Note a pong: it answers its ping and every one before it."""
        while payload in self._pings:
            del self._pings[next(iter(self._pings))]
        self._answered.set()

    # out

    async def _work(self) -> None:
        while True:
            frame = await self._next_frame()
            self._idle.clear()
            try:
                await self._infer(frame.number, frame.image)
            finally:
                frame.share.give_back()
                self._idle.set()

    async def _next_frame(self) -> Frame:
        """Wait for a frame and for a client that has read; then take the newest frame."""
        while len(self._pings) >= WINDOW or self._inbox is None or self._farewell.done():
            event = self._answered if len(self._pings) >= WINDOW else self._arrived
            event.clear()
            await event.wait()
        frame, self._inbox = self._inbox, None
        return frame

    async def _infer(self, number: int, image: bytes) -> None:
        session = self._session
        job = Job(image, session.params, self._form, session.id)
        try:
            session.recipe = self._state.catalog.recipe(session.model, session.task)
            outcome = await self._outcome(number, job)
        except (WorkerDied, Unavailable) as error:
            session.reset = session.reset or isinstance(error, WorkerDied)
            await self._answer(StreamError(error.detail, number))
            return
        except MataError as error:
            await self._answer(StreamError(error.detail, number))
            self.leave(INTERNAL, "the model cannot be loaded")
            return
        if outcome.failure is None:
            await self._answer(self._result(number, outcome))
            return
        await self._answer(StreamError(outcome.failure.detail, number))
        if outcome.failure.status >= 500 and outcome.failure.status != Unavailable.status:
            self.leave(INTERNAL, "inference failed")

    async def _outcome(self, number: int, job: Job) -> Outcome:
        """Run a frame; a session that asked for it is sent the pieces of text as they are made."""
        pool, recipe = self._state.pool, self._session.recipe
        if not self._session.stream:
            outcome, _ = await pool.infer(recipe, job)
            return outcome
        async with contextlib.aclosing(pool.generate(recipe, job)) as items:
            async for item in items:
                if not isinstance(item, str):
                    return item
                await self._send(StreamToken(item, number))
        raise WorkerDied("The model gave no result")

    def _result(self, number: int, outcome: Outcome) -> codec.Envelope:
        session = self._session
        reset = session.reset or (outcome.fresh and session.results > 0)
        session.reset = False
        session.results += 1
        return codec.envelope(
            outcome,
            session.task,
            session.model,
            session_id=session.id,
            frame_id=number,
            inference_ms=outcome.timing.infer,
            dropped=session.dropped,
            reset=True if reset else UNSET,
        )

    async def _answer(self, value: object) -> None:
        """Answer a frame; a ping follows, and its pong tells that the client has read so far."""
        payload = self._new_ping()  # noted before: a client that takes nothing blocks the answer
        await self._send(value)
        await self._ping(payload)

    async def _send(self, value: object) -> None:
        data = codec.encode(value, self._form)
        with self._unless_gone():
            if self._form == "json":
                await self._socket.send_frame(data, WSMsgType.TEXT)
            else:
                await self._socket.send_bytes(data)

    def _new_ping(self) -> bytes:
        self._ping_count += 1
        payload = self._ping_count.to_bytes(8, "big")
        self._last_ping = self._pings[payload] = time.monotonic()
        return payload

    async def _ping(self, payload: bytes) -> None:
        with self._unless_gone():
            await self._socket.ping(payload)

    @contextlib.contextmanager
    def _unless_gone(self) -> Iterator[None]:
        """End the connection when what is sent finds it broken."""
        try:
            yield
        except ConnectionError:
            self.leave(NORMAL, "closed by the client")

    # time

    async def _keep_alive(self) -> None:
        """Ping a client that was not pinged for a while: a dead one never answers."""
        interval = self._state.settings.ping_interval
        while True:
            wait = self._last_ping + interval - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            else:
                await self._ping(self._new_ping())

    async def _watch(self) -> None:
        """Give up a client that reads nothing, or sends nothing. Never sends, so never blocks."""
        unread, ttl = self._state.settings.unread_timeout, self._state.sessions.ttl
        while True:
            await asyncio.sleep(min(unread / 4, ttl / 4, 1.0))
            now = time.monotonic()
            oldest = next(iter(self._pings.values()), now)
            if now - oldest > unread:
                self.leave(GOING_AWAY, "nothing was read for too long")
            elif now - self._last_frame > ttl and self._idle.is_set():
                self.leave(NORMAL, "no frame for too long")
