"""The WebSocket of a session: frames in, results out. docs/streaming.md is its protocol.

One inference runs at a time; while it runs the newest frame waits in a one-slot inbox and replaces
the one before. A ping follows each result, and inference pauses while four are unanswered, so that
a client that reads slowly holds up nobody but itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

import msgspec
from aiohttp import WSMsgType, web
from msgspec import UNSET, Struct, UnsetType

from mataserver.engines.work import Job, WorkerDied
from mataserver.errors import MataError, NotFound, Unavailable
from mataserver.http import auth, codec
from mataserver.http.routing import Route

if TYPE_CHECKING:
    from aiohttp import WSMessage

    from mataserver.engines.work import Format, Outcome
    from mataserver.http.routing import State
    from mataserver.sessions import Session

MSGPACK_PROTOCOL = "mata.v1.msgpack"
JSON_PROTOCOL = "mata.v1.json"
WINDOW = 4
CLOSE_TIMEOUT = 3.0

NORMAL, GOING_AWAY, POLICY, INTERNAL, UNAUTHORIZED, NO_SESSION = 1000, 1001, 1008, 1011, 4001, 4004

log = logging.getLogger("mataserver.stream")


class StreamError(Struct):
    """What a client is told about a frame or a message that could not be served."""

    detail: str
    frame_id: int | UnsetType = UNSET
    type: str = "error"


class Said(Struct):
    """A text message of a client."""

    type: str


def routes(state: State) -> list[Route]:
    """Return this module's route."""
    return [
        Route("GET", "/v1/stream/{session_id}", _Stream(state).stream, "Stream frames", "sessions",
              public=True, documented=False),
    ]  # fmt: skip


class _Stream:
    def __init__(self, state: State) -> None:
        self._state = state

    async def stream(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(
            autoping=False,
            compress=False,
            max_msg_size=self._state.settings.max_body,
            protocols=(MSGPACK_PROTOCOL, JSON_PROTOCOL),
            timeout=CLOSE_TIMEOUT,
        )
        await socket.prepare(request)
        code, reason = await self._serve(request, socket)
        await _close(request, socket, code, reason)
        return socket

    async def _serve(self, request: web.Request, socket: web.WebSocketResponse) -> tuple[int, str]:
        if not auth.check_socket(request, self._state):
            return UNAUTHORIZED, "unauthorized"
        try:
            session = self._state.sessions.get(request.match_info["session_id"])
        except NotFound:
            return NO_SESSION, "invalid or expired session"
        if session.connection is not None:
            return POLICY, "the session has a connection already"
        if self._state.draining:
            return GOING_AWAY, "the server is shutting down"
        connection = Connection(self._state, session, socket)
        session.connection = connection
        self._state.metrics.connected.inc()
        try:
            return await connection.run()
        finally:
            session.connection = None
            self._state.sessions.touch(session)
            self._state.metrics.connected.dec()


async def _close(
    request: web.Request, socket: web.WebSocketResponse, code: int, reason: str
) -> None:
    """Close; a peer that does not take the close frame is cut off."""
    if socket.closed:
        return
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT + 1):
            await socket.close(code=code, message=reason.encode())
    except (TimeoutError, ConnectionError):
        if request.transport is not None:
            request.transport.abort()


class Connection:
    """One open socket of a session."""

    def __init__(self, state: State, session: Session, socket: web.WebSocketResponse) -> None:
        self._state = state
        self._session = session
        self._socket = socket
        self._form: Format = "msgpack" if socket.ws_protocol == MSGPACK_PROTOCOL else "json"
        self._inbox: tuple[int, bytes] | None = None
        self._arrived = asyncio.Event()
        self._answered = asyncio.Event()
        self._pings: OrderedDict[bytes, float] = OrderedDict()
        self._ping_count = 0
        self._last_frame = time.monotonic()
        self._last_ping = time.monotonic()
        self._idle = asyncio.Event()
        self._idle.set()
        self._leave: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()

    def leave(self, code: int, reason: str) -> None:
        """Have the connection closed from outside."""
        if not self._leave.done():
            self._leave.set_result((code, reason))

    async def run(self) -> tuple[int, str]:
        """Serve until either side ends; return the close code and reason."""
        reader = asyncio.create_task(self._read())
        worker = asyncio.create_task(self._work())
        keeper = asyncio.create_task(self._keep())
        tasks: set[asyncio.Future[tuple[int, str]]] = {reader, worker, keeper, self._leave}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if self._leave in done and self._leave.result()[0] == GOING_AWAY:
                await self._finish_frame()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(reader, worker, keeper, return_exceptions=True)
        for task in (self._leave, worker, keeper, reader):
            if task in done:
                return task.result()
        return NORMAL, "done"

    async def _finish_frame(self) -> None:
        """Let the frame that is being inferred be answered before the server goes."""
        self._inbox = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._state.settings.drain_timeout / 2):
                await self._idle.wait()

    # in

    async def _read(self) -> tuple[int, str]:
        while True:
            message = await self._socket.receive()
            if message.type is WSMsgType.BINARY:
                self._frame(message.data)
            elif message.type is WSMsgType.TEXT:
                await self._text(message)
            elif message.type is WSMsgType.PING:
                await self._socket.pong(message.data)
            elif message.type is WSMsgType.PONG:
                self._pong(bytes(message.data))
            elif message.type in {
                WSMsgType.CLOSE,
                WSMsgType.CLOSING,
                WSMsgType.CLOSED,
                WSMsgType.ERROR,
            }:
                return NORMAL, "closed by the client"

    def _frame(self, data: bytes) -> None:
        session, metrics = self._session, self._state.metrics
        number = session.frames
        session.frames += 1
        self._last_frame = time.monotonic()
        metrics.frames.labels(session.model).inc()
        if self._inbox is not None:
            session.dropped += 1
            metrics.dropped.labels(session.model).inc()
        self._inbox = (number, data)
        self._arrived.set()

    async def _text(self, message: WSMessage) -> None:
        try:
            said = msgspec.json.decode(message.data, type=Said)
        except (msgspec.DecodeError, RecursionError):
            await self._send(StreamError('a text message must be {"type": "ping"}'))
            return
        if said.type == "ping":
            await self._send({"type": "pong"})
        else:
            await self._send(StreamError(f"unknown message type {said.type[:40]!r}"))

    def _pong(self, payload: bytes) -> None:
        """A pong answers its ping and every one before it."""
        while payload in self._pings:
            self._pings.popitem(last=False)
        self._answered.set()

    # out

    async def _work(self) -> tuple[int, str]:
        while True:
            number, image = await self._next_frame()
            self._idle.clear()
            try:
                ended = await self._infer(number, image)
            finally:
                self._idle.set()
            if ended is not None:
                return ended

    async def _next_frame(self) -> tuple[int, bytes]:
        while len(self._pings) >= WINDOW or self._inbox is None:
            event = self._answered if len(self._pings) >= WINDOW else self._arrived
            event.clear()
            await event.wait()
        frame, self._inbox = self._inbox, None
        return frame

    async def _infer(self, number: int, image: bytes) -> tuple[int, str] | None:
        session = self._session
        job = Job(image, session.params, self._form, session.id)
        try:
            outcome, _ = await self._state.pool.infer(session.recipe, job)
        except WorkerDied as error:
            session.reset = True
            await self._send(StreamError(error.detail, number))
            return None
        except Unavailable as error:
            await self._send(StreamError(error.detail, number))
            return None
        except MataError as error:
            await self._send(StreamError(error.detail, number))
            return INTERNAL, "the model cannot be loaded"
        if outcome.failure is not None:
            await self._send(StreamError(outcome.failure.detail, number))
            return (INTERNAL, "inference failed") if outcome.failure.status >= 500 else None
        await self._result(number, outcome)
        return None

    async def _result(self, number: int, outcome: Outcome) -> None:
        session = self._session
        reset = session.reset or (outcome.fresh and session.results > 0)
        session.reset = False
        session.results += 1
        answer = codec.envelope(
            outcome,
            session.task,
            session.model,
            session_id=session.id,
            frame_id=number,
            inference_ms=outcome.timing.infer,
            dropped=session.dropped,
            reset=True if reset else UNSET,
        )
        await self._send(answer)
        await self._ping()

    async def _send(self, value: object) -> None:
        data = codec.encode(value, self._form)
        try:
            if self._form == "json":
                await self._socket.send_str(data.decode())
            else:
                await self._socket.send_bytes(data)
        except ConnectionError:
            self.leave(NORMAL, "closed by the client")

    async def _ping(self) -> None:
        self._ping_count += 1
        payload = self._ping_count.to_bytes(8, "big")
        self._last_ping = self._pings[payload] = time.monotonic()
        with contextlib.suppress(ConnectionError):
            await self._socket.ping(payload)

    # time

    async def _keep(self) -> tuple[int, str]:
        """Ping while idle; give up a client that reads nothing or sends nothing."""
        settings, ttl = self._state.settings, self._state.sessions.ttl
        tick = min(settings.ping_interval, settings.unread_timeout, ttl, 4.0) / 4
        while True:
            await asyncio.sleep(tick)
            now = time.monotonic()
            oldest = next(iter(self._pings.values()), now)
            if now - oldest > settings.unread_timeout:
                return GOING_AWAY, "nothing was read"
            if now - self._last_frame > ttl:
                return NORMAL, "no frame for too long"
            if now - self._last_ping > settings.ping_interval and not self._pings:
                await self._ping()
