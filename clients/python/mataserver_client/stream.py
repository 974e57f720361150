"""A stream of frames over a WebSocket, and its return after a lost connection."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from types import AsyncGeneratorType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import aiohttp
import msgspec
from msgspec import Struct

from mataserver_client import results
from mataserver_client.errors import MataError, NotFound
from mataserver_client.failures import (
    PASSING_CODES,
    PASSING_STATUSES,
    BadAnswer,
    ClosedMeanwhile,
    ConnectionFailed,
    from_close,
)
from mataserver_client.replies import FrameError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from mataserver_client.in_flight import InFlightFrames
    from mataserver_client.replies import StreamItem
    from mataserver_client.source import Source
    from mataserver_client.transport import Transport

log = logging.getLogger(__name__)

_DATA = (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY)


class Reconnect(Struct, frozen=True, kw_only=True):
    """How a lost connection is made again: ``tries`` in a row, with delays (seconds) that double.

    The server keeps a session without a connection for a while (300 s unless configured).
    """

    tries: int = 10
    first_delay: float = 0.2
    longest_delay: float = 5.0

    def delay(self, attempt: int) -> float:
        """Return the seconds to wait before the try number ``attempt``, from 0."""
        return min(self.longest_delay, self.first_delay * 2.0 ** min(attempt, 60))


class _NoticeMessage(Struct):
    """A message of the server that is no result."""

    type: str
    frame_id: int | None = None
    detail: str = ""
    retry_after: float | None = None


class FrameStream:
    """Sends the frames of ``source`` to a session and yields what comes back.

    ``reconnect`` None gives up at the first lost connection. ``renew`` makes a session and returns
    its id: the first where ``session_id`` is empty, and another for a server that has forgotten
    this one; None: the session is the caller's.
    """

    def __init__(
        self,
        transport: Transport,
        session_id: str,
        source: Source,
        in_flight: InFlightFrames,
        *,
        reconnect: Reconnect | None,
        renew: Callable[[], Awaitable[str]] | None = None,
    ) -> None:
        self._transport = transport
        self._session_id = session_id
        self._source = source
        self._in_flight = in_flight
        self._reconnect = reconnect
        self._renew = renew
        self._attempts = 0
        self._connected = False
        self._answered = False
        self._anew = False
        self._ended = False

    @property
    def ended(self) -> bool:
        """Whether every frame was answered, or the session deleted."""
        return self._ended or (self._source.at_end and not self._in_flight.pending)

    async def items(self) -> AsyncGenerator[StreamItem, None]:
        """Yield results and frame errors until every frame is answered or dropped.

        Raises ``MataError`` when the session cannot go on, and what the source raises.
        """
        async with self._source:
            if self._renew is not None and not self._session_id:
                self._session_id = await self._renew()
            while True:
                socket = await self._connect()
                pump = asyncio.create_task(self._pump(socket))
                try:
                    while (message := await _next(socket, pump)) and message.type in _DATA:
                        item = self._item(message)
                        if item is not None:
                            yield item
                finally:
                    await _stop(pump)
                    await socket.close()
                if message is None or not await self._lost(_close_code(message)):
                    self._ended = True
                    return

    async def _connect(self) -> aiohttp.ClientWebSocketResponse:
        while True:
            path = f"/v1/stream/{quote(self._session_id, safe='')}"
            socket = await self._transport.socket(path)
            if not isinstance(socket, MataError):
                self._connected = True
                return socket
            await self._pause(socket, again=_is_passing(socket) and self._connected)

    async def _lost(self, code: int) -> bool:
        """Prepare for another connection; False after an orderly end."""
        # A client that is closed deletes the session, which is no end in order for who reads on.
        failure = ClosedMeanwhile() if self._transport.closing else from_close(code)
        if failure is None:
            return False
        # A session that was ours may still be held by the connection that broke; one that never
        # answered is somebody else's.
        again = code in PASSING_CODES and (self._answered or code != 1008)
        renew = self._renew if self._answered and isinstance(failure, NotFound) else None
        await self._pause(failure, again=again or renew is not None)
        self._in_flight.drop_unanswered()
        if renew is not None:
            await self._begin_anew(renew)
        return True

    async def _begin_anew(self, renew: Callable[[], Awaitable[str]]) -> None:
        """Go on in another session: a server that was restarted knows none of before."""
        while True:
            try:
                self._session_id = await renew()
            except MataError as failure:
                await self._pause(failure, again=_is_passing(failure))
            else:
                self._anew = True
                return

    async def _pause(self, failure: MataError, *, again: bool) -> None:
        """Wait before the next try, or raise ``failure`` when there is none."""
        if self._transport.closing:
            raise ClosedMeanwhile
        policy = self._reconnect
        if not again or policy is None or self._attempts >= policy.tries:
            raise failure
        log.info("stream: %s; trying again", failure.detail)
        await asyncio.sleep(policy.delay(self._attempts))
        self._attempts += 1

    async def _pump(self, socket: aiohttp.ClientWebSocketResponse) -> bool:
        """Send frames as the window allows; True when all is said, False when none can be sent."""
        if self._in_flight.pending and not await _send(socket, self._in_flight.newest):
            return False
        while True:
            await self._in_flight.wait_for_room()
            frame = await self._source.next()
            if frame is None:
                break
            self._in_flight.note_sent(frame)
            if not await _send(socket, frame):
                return False
        await self._in_flight.wait_until_empty()
        return True

    def _item(self, message: aiohttp.WSMessage) -> StreamItem | None:
        """Return what a message says, with our number of the frame; None if it says nothing."""
        packed = message.type is aiohttp.WSMsgType.BINARY
        data = message.data if packed else message.data.encode()
        try:
            response = results.decode(data, msgpack=packed)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return self._notice(data, packed=packed)
        if not isinstance(response.frame_id, int):
            raise BadAnswer("The server's result has no frame_id")
        self._attempts = 0
        self._answered = True
        if self._anew:
            response.reset, self._anew = True, False
        response.frame_id = self._in_flight.note_answer(response.frame_id)
        return response

    def _notice(self, data: bytes, *, packed: bool) -> FrameError | None:
        decode = msgspec.msgpack.decode if packed else msgspec.json.decode
        try:
            notice = decode(data, type=_NoticeMessage)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise BadAnswer("The server's message is not one of this API") from None
        if notice.type != "error":
            return None
        frame = notice.frame_id
        frame = None if frame is None else self._in_flight.note_answer(frame)
        return FrameError(frame, notice.detail, notice.retry_after)


def _is_passing(failure: MataError) -> bool:
    return isinstance(failure, ConnectionFailed) or failure.status in PASSING_STATUSES


async def close_idle(stream: AsyncGenerator[Any, None]) -> None:
    """Close a stream, unless another task is reading it: that one sees the connection end."""
    if isinstance(stream, AsyncGeneratorType) and not stream.ag_running:
        await stream.aclose()


async def _next(
    socket: aiohttp.ClientWebSocketResponse, pump: asyncio.Task[bool]
) -> aiohttp.WSMessage | None:
    """Return the next message, or None when the pump has nothing left to wait for.

    Raises what the source of the frames raises.
    """
    receiving = asyncio.create_task(_receive(socket))
    try:
        await asyncio.wait({receiving, pump}, return_when=asyncio.FIRST_COMPLETED)
        if pump.done() and pump.result():
            # Before the receiver is stopped: only then is the server's goodbye waited for, after
            # which the session is free for another connection.
            await socket.close()
            return None
        return await receiving
    finally:
        await _stop(receiving)


async def _receive(socket: aiohttp.ClientWebSocketResponse) -> aiohttp.WSMessage:
    """Return the next message.

    Where the connection was lost before a ping was read, its pong cannot be sent, which aiohttp
    raises. What the server said last, such as why it closed, stands behind that ping.
    """
    while True:
        with contextlib.suppress(aiohttp.ClientError, ConnectionError):
            return await socket.receive()


async def _send(socket: aiohttp.ClientWebSocketResponse, frame: bytes) -> bool:
    """Send a frame; False when the connection is gone, which the receiver will learn in detail."""
    with contextlib.suppress(aiohttp.ClientError, ConnectionError):
        await socket.send_bytes(frame)
        return True
    return False


async def _stop(task: asyncio.Task[object]) -> None:
    """Cancel a task and wait for its end; what it raised has been seen or does not matter now."""
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
    if not task.cancelled():
        task.exception()  # else asyncio logs that it was never retrieved


def _close_code(message: aiohttp.WSMessage) -> int:
    """Return the code that the server closed with, 1006 where there was no closing message."""
    if message.type is aiohttp.WSMsgType.CLOSE and isinstance(message.data, int):
        return message.data or 1000
    if isinstance(message.data, aiohttp.WebSocketError):
        return int(message.data.code)
    return 1006
