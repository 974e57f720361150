"""One open socket of a streaming session: tasks, flow control, messages.

A ping follows each answer to a frame; inference pauses while four are unanswered, so a slow reader
delays only itself.
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from aiohttp import WebSocketError, WSMsgType
from msgspec import UNSET, Struct, UnsetType

from mataserver.http import codec
from mataserver.http.error_responses import figures

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from aiohttp import WSMessage, web

    from mataserver.contract.envelope import Format
    from mataserver.errors import MataError
    from mataserver.http.budget import Budget
    from mataserver.http.lifecycle import Lifecycle
    from mataserver.serving.observers import Observers
    from mataserver.serving.sessions import Session, SessionStore

MSGPACK_PROTOCOL = "mata.v1.msgpack"
PING_WINDOW = 4
"""Unanswered pings that pause inference."""
MAX_TEXT = 65_536
"""Longest text message that is parsed, in characters."""
MESSAGES_PER_TURN = 64
"""Messages that a connection handles before it yields to others."""

NORMAL, GOING_AWAY, TOO_BIG, INTERNAL, TRY_AGAIN_LATER = 1000, 1001, 1009, 1011, 1013
_CLOSE_TEXTS = {TOO_BIG: "message too big", TRY_AGAIN_LATER: "too many request bytes are in flight"}

log = logging.getLogger("mataserver.stream")


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """Common settings of the sessions' sockets; times in seconds.

    ping_interval:  between pings of an otherwise idle client.
    unread_timeout: after which a client that reads nothing is disconnected.
    drain_timeout:  half of it is for the frame in progress at a shutdown.
    """

    sessions: SessionStore
    budget: Budget
    lifecycle: Lifecycle
    observers: Observers
    ping_interval: float
    unread_timeout: float
    drain_timeout: float


class CloseReason(NamedTuple):
    """Why a connection is closed: a WebSocket close code and its reason."""

    code: int
    reason: str


class StreamError(Struct, kw_only=True, tag_field="type", tag="error"):
    """The answer to a frame or a message that could not be served.

    ``retry_after``: the seconds after which a retry may succeed. The others are those of a 507.
    """

    frame_id: int | UnsetType = UNSET
    detail: str
    retry_after: int | UnsetType = UNSET
    device: str | UnsetType = UNSET
    needed_mb: float | UnsetType = UNSET
    free_mb: float | UnsetType = UNSET
    limit_mb: float | UnsetType = UNSET

    @classmethod
    def of(cls, error: MataError, frame: int) -> StreamError:
        """Return the answer to a frame that failed."""
        later = UNSET if error.retry_seconds is None else error.retry_seconds
        return cls(frame_id=frame, detail=error.detail, retry_after=later, **figures(error))


class StreamToken(Struct, tag_field="type", tag="token"):
    """A piece of the text that the model is making for a frame."""

    frame_id: int
    text: str


class ClientMessage(Struct):
    """A text message of a client."""

    type: str


class Channel(ABC):
    """One open socket of a session.

    Separate tasks read, answer, ping, and check timeouts. Any of them can set the close reason;
    ``run`` then ends the others.
    """

    def __init__(
        self, settings: StreamSettings, session: Session, socket: web.WebSocketResponse
    ) -> None:
        self._settings = settings
        self._session = session
        self._socket = socket
        self._form: Format = "msgpack" if socket.ws_protocol == MSGPACK_PROTOCOL else "json"
        self._pings: dict[bytes, float] = {}
        self._ping_count = 0
        self._last_ping = time.monotonic()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing: asyncio.Future[CloseReason] = asyncio.get_running_loop().create_future()

    def request_close(self, code: int, reason: str) -> None:
        """Close the connection; with 1001 frames in progress are answered first."""
        if not self._closing.done():
            self._closing.set_result(CloseReason(code, reason))

    async def run(self) -> CloseReason:
        """Serve until either side closes; return why. No task outlives it."""
        for each in (self._read(), self._work(), self._keep_alive(), self._watch()):
            self._spawn(each)
        try:
            closing = await self._closing
            if closing.code == GOING_AWAY and self._settings.lifecycle.is_draining:
                await self._finish()
            return closing
        finally:
            self._closing.cancel()  # or it is done: either way nothing new starts
            tasks = tuple(self._tasks)
            for task in tasks:
                task.cancel()
            try:
                await asyncio.gather(*tasks, return_exceptions=True)
            finally:  # also where the connection is lost meanwhile
                self._release()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Start a task that lives as long as the socket."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_end)

    async def _finish(self) -> None:  # noqa: B027 - most have nothing in progress
        """Answer frames in progress before shutdown."""

    def _release(self) -> None:  # noqa: B027 - most hold nothing
        """Release what is waiting, after every task has ended."""

    @abstractmethod
    async def _work(self) -> None:
        """Answer until cancelled."""

    @abstractmethod
    async def _on_binary(self, data: bytes) -> None:
        """Handle a binary message."""

    @abstractmethod
    def _on_client_read(self) -> None:
        """Resume if waiting for the client: it has read."""

    def _idle_too_long(self, _now: float) -> bool:
        """Whether the client has been idle for too long."""
        return False

    def _on_task_end(self, task: asyncio.Task[None]) -> None:
        """Log a task's exception; a bug closes the connection."""
        self._tasks.discard(task)
        if task.cancelled() or task.exception() is None:
            return
        log.error("stream of %s failed", self._session.id, exc_info=task.exception())
        self.request_close(INTERNAL, "internal error")

    # Input

    async def _read(self) -> None:
        count = 0
        while not self._closing.done():
            message = await self._socket.receive()
            await self._handle(message)
            del message  # else the frame is kept until the next one
            count += 1
            if count % MESSAGES_PER_TURN == 0:
                await asyncio.sleep(0)

    async def _handle(self, message: WSMessage) -> None:
        kind = message.type
        if kind is WSMsgType.BINARY:
            await self._on_binary(message.data)
        elif kind is WSMsgType.TEXT:
            await self._on_text(message.data)
        elif kind is WSMsgType.PING:
            await self._send_frame(message.data, WSMsgType.PONG)
        elif kind is WSMsgType.PONG:
            self._on_pong(bytes(message.data))
        elif kind is WSMsgType.ERROR and isinstance(message.data, WebSocketError):
            code = message.data.code
            log.info("stream of %s: %s (%d)", self._session.id, message.data, code)
            self.request_close(code, _CLOSE_TEXTS.get(code, "protocol error"))
        else:
            self.request_close(NORMAL, "closed by the client")

    async def _on_text(self, text: str) -> None:
        try:
            message = msgspec.json.decode(text[:MAX_TEXT], type=ClientMessage)
        except (msgspec.DecodeError, RecursionError, UnicodeError):
            await self._send(StreamError(detail='a text message must be {"type": "ping"}'))
            return
        if message.type == "ping":
            await self._send({"type": "pong"})
        else:
            await self._send(StreamError(detail=f"unknown message type {message.type[:40]!r}"))

    def _on_pong(self, payload: bytes) -> None:
        """Handle a pong: it answers its ping and all earlier ones."""
        while payload in self._pings:
            del self._pings[next(iter(self._pings))]
        self._on_client_read()

    # Output

    async def _answer(self, value: object) -> None:
        """Answer a frame; its ping's pong tells how far the client has read."""
        payload = self._new_ping()  # added first: a client that does not read blocks the answer
        await self._send(value)
        await self._send_frame(payload, WSMsgType.PING)

    async def _send(self, value: object) -> None:
        kind = WSMsgType.TEXT if self._form == "json" else WSMsgType.BINARY
        await self._send_frame(codec.encode(value, self._form), kind)

    async def _send_frame(self, data: bytes, kind: WSMsgType) -> None:
        """Send a frame; close the connection if that fails."""
        try:
            await self._socket.send_frame(data, kind)
        except ConnectionError:
            self.request_close(NORMAL, "closed by the client")

    def _new_ping(self) -> bytes:
        self._ping_count += 1
        payload = self._ping_count.to_bytes(8, "big")
        self._last_ping = self._pings[payload] = time.monotonic()
        return payload

    # Timeouts

    async def _keep_alive(self) -> None:
        """Ping an idle client, to detect a dead one."""
        interval = self._settings.ping_interval
        while True:
            wait = self._last_ping + interval - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            else:
                await self._send_frame(self._new_ping(), WSMsgType.PING)

    async def _watch(self) -> None:
        """Disconnect a client that reads or sends nothing. Never sends, so never blocks."""
        unread, ttl = self._settings.unread_timeout, self._settings.sessions.ttl
        while True:
            await asyncio.sleep(min(unread / 4, ttl / 4, 1.0))
            now = time.monotonic()
            oldest = next(iter(self._pings.values()), now)
            if now - oldest > unread:
                self.request_close(GOING_AWAY, "nothing was read for too long")
            elif self._idle_too_long(now):
                self.request_close(NORMAL, "no frame for too long")
