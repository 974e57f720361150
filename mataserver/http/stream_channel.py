"""One open socket of a streaming session: its tasks, its flow control, its messages.

A ping follows each answer to a frame, and no answer is made while four are unanswered, so that a
client that reads slowly holds up nobody but itself.
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

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from aiohttp import WSMessage, web

    from mataserver.contract.envelope import Format
    from mataserver.http.budget import Budget
    from mataserver.http.lifecycle import Lifecycle
    from mataserver.serving.observers import Observers
    from mataserver.serving.sessions import Session, SessionStore

MSGPACK_PROTOCOL = "mata.v1.msgpack"
WINDOW = 4
"""Unanswered pings that pause inference."""
MOST_TEXT = 65_536
"""Characters of a text message that are looked at: more are no JSON then."""
TURN = 64
"""Messages that one connection handles before the others get their turn."""

NORMAL, GOING_AWAY, TOO_BIG, INTERNAL, LATER = 1000, 1001, 1009, 1011, 1013
_FAULTS = {TOO_BIG: "message too big", LATER: "too many request bytes are in flight"}

log = logging.getLogger("mataserver.stream")


@dataclass(frozen=True, slots=True)
class Terms:
    """What the sockets of sessions share; times in seconds.

    ping_interval:  between two pings of a client that is not pinged otherwise.
    unread_timeout: after which a client that reads nothing is given up.
    drain_timeout:  half of it is for the frame under way at a shutdown.
    """

    sessions: SessionStore
    budget: Budget
    lifecycle: Lifecycle
    observers: Observers
    ping_interval: float
    unread_timeout: float
    drain_timeout: float


class CloseReason(NamedTuple):
    """Why a connection ends: a WebSocket close code and its reason."""

    code: int
    reason: str


class StreamError(Struct, kw_only=True, tag_field="type", tag="error"):
    """What a client is told about a frame or a message that could not be served."""

    frame_id: int | UnsetType = UNSET
    detail: str


class ClientMessage(Struct):
    """A text message of a client."""

    type: str


class Channel(ABC):
    """One open socket of a session.

    Its tasks: one reads, one answers, one pings, one watches the time. Whichever finds a reason to
    end the connection sets its reason; ``run`` then ends the others.
    """

    def __init__(self, terms: Terms, session: Session, socket: web.WebSocketResponse) -> None:
        self._terms = terms
        self._session = session
        self._socket = socket
        self._form: Format = "msgpack" if socket.ws_protocol == MSGPACK_PROTOCOL else "json"
        self._pings: dict[bytes, float] = {}
        self._ping_count = 0
        self._last_ping = time.monotonic()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing: asyncio.Future[CloseReason] = asyncio.get_running_loop().create_future()

    def request_close(self, code: int, reason: str) -> None:
        """Have the connection end; with 1001 what the model was given is answered first."""
        if not self._closing.done():
            self._closing.set_result(CloseReason(code, reason))

    async def run(self) -> CloseReason:
        """Serve until either side ends; return why. No task outlives it."""
        for each in self._loops():
            self._spawn(each)
        try:
            closing = await self._closing
            if closing.code == GOING_AWAY and self._terms.lifecycle.draining:
                await self._finish()
            return closing
        finally:
            self._closing.cancel()  # or is done: either way nothing new begins
            tasks = tuple(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._release()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Have something run for as long as the socket is open."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _loops(self) -> tuple[Coroutine[Any, Any, None], ...]:
        """Return what runs while the socket is open."""
        return (self._read(), self._work(), self._keep_alive(), self._watch())

    async def _finish(self) -> None:  # noqa: B027 - most have nothing under way
        """Answer what is under way before the server goes."""

    def _release(self) -> None:  # noqa: B027 - most hold nothing
        """Give back what waits: every task has ended."""

    @abstractmethod
    async def _work(self) -> None:
        """Answer for ever."""

    @abstractmethod
    async def _binary(self, data: bytes) -> None:
        """Take a binary message."""

    @abstractmethod
    def _has_read(self) -> None:
        """Go on, where the client was waited for: it has read."""

    def _idle_too_long(self, _now: float) -> bool:
        """Whether the client has not done its part for too long."""
        return False

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Log what ended a task; a bug ends the connection."""
        self._tasks.discard(task)
        if task.cancelled() or task.exception() is None:
            return
        log.error("stream of %s failed", self._session.id, exc_info=task.exception())
        self.request_close(INTERNAL, "internal error")

    # in

    async def _read(self) -> None:
        count = 0
        while not self._closing.done():
            message = await self._socket.receive()
            await self._handle(message)
            del message  # a frame would stay until the next one
            count += 1
            if count % TURN == 0:
                await asyncio.sleep(0)

    async def _handle(self, message: WSMessage) -> None:
        kind = message.type
        if kind is WSMsgType.BINARY:
            await self._binary(message.data)
        elif kind is WSMsgType.TEXT:
            await self._text(message.data)
        elif kind is WSMsgType.PING:
            await self._pong(message.data)
        elif kind is WSMsgType.PONG:
            self._ponged(bytes(message.data))
        elif kind is WSMsgType.ERROR and isinstance(message.data, WebSocketError):
            code = message.data.code
            log.info("stream of %s: %s (%d)", self._session.id, message.data, code)
            self.request_close(code, _FAULTS.get(code, "protocol error"))
        else:
            self.request_close(NORMAL, "closed by the client")

    async def _text(self, text: str) -> None:
        try:
            message = msgspec.json.decode(text[:MOST_TEXT], type=ClientMessage)
        except (msgspec.DecodeError, RecursionError, UnicodeError):
            await self._send(StreamError(detail='a text message must be {"type": "ping"}'))
            return
        if message.type == "ping":
            await self._send({"type": "pong"})
        else:
            await self._send(StreamError(detail=f"unknown message type {message.type[:40]!r}"))

    async def _pong(self, payload: bytes) -> None:
        try:
            await self._socket.pong(payload)
        except ConnectionError:
            self._gone()

    def _ponged(self, payload: bytes) -> None:
        """Note a pong: it answers its ping and every one before it."""
        while payload in self._pings:
            del self._pings[next(iter(self._pings))]
        self._has_read()

    # out

    async def _answer(self, value: object) -> None:
        """Answer a frame; a ping follows, and its pong tells that the client has read so far."""
        payload = self._new_ping()  # noted before: a client that takes nothing blocks the answer
        await self._send(value)
        await self._ping(payload)

    async def _send(self, value: object) -> None:
        data = codec.encode(value, self._form)
        kind = WSMsgType.TEXT if self._form == "json" else WSMsgType.BINARY
        try:
            await self._socket.send_frame(data, kind)
        except ConnectionError:
            self._gone()

    def _new_ping(self) -> bytes:
        self._ping_count += 1
        payload = self._ping_count.to_bytes(8, "big")
        self._last_ping = self._pings[payload] = time.monotonic()
        return payload

    async def _ping(self, payload: bytes) -> None:
        try:
            await self._socket.ping(payload)
        except ConnectionError:
            self._gone()

    def _gone(self) -> None:
        """End the connection: what was sent found it broken."""
        self.request_close(NORMAL, "closed by the client")

    # time

    async def _keep_alive(self) -> None:
        """Ping a client that was not pinged for a while: a dead one never answers."""
        interval = self._terms.ping_interval
        while True:
            wait = self._last_ping + interval - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            else:
                await self._ping(self._new_ping())

    async def _watch(self) -> None:
        """Give up a client that reads nothing, or sends nothing. Never sends, so never blocks."""
        unread, ttl = self._terms.unread_timeout, self._terms.sessions.ttl
        while True:
            await asyncio.sleep(min(unread / 4, ttl / 4, 1.0))
            now = time.monotonic()
            oldest = next(iter(self._pings.values()), now)
            if now - oldest > unread:
                self.request_close(GOING_AWAY, "nothing was read for too long")
            elif self._idle_too_long(now):
                self.request_close(NORMAL, "no frame for too long")
