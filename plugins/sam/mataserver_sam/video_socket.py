"""A propagation over a WebSocket: one message per frame, at the client's pace.

A frame is computed when the one before it was sent, so a slow client slows down its own session
(back-pressure) and fills no buffer. A client's disconnect ends the work between two frames, and so
does a shutdown of the server.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import WSMsgType, web

from mataserver import BadRequest, InvalidParams, MataError, decode_json
from mataserver_sam.video_requests import (
    CompleteMessage,
    ErrorMessage,
    FrameMessage,
    PropagateRequest,
)
from mataserver_sam.video_session import shutdown_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from aiohttp import WSMessage

    from mataserver_sam.callers import Caller
    from mataserver_sam.video_sessions import VideoSessions

MAX_MESSAGE = 65_536
"""The maximum bytes of a client's message."""

CLIENT_TIMEOUT = 60.0
"""The time in seconds for a client to send its request, and to accept a frame."""

SHUTDOWN_TIMEOUT = 5.0
"""The time in seconds at a shutdown for the current frame, and for sending what is pending."""

_NORMAL, _GOING_AWAY, _INTERNAL = 1000, 1001, 1011
_CLOSE_TYPES = frozenset({WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR})


class VideoSocket:
    """Serves one socket.

    ``complete`` adds the server's defaults to a request; ``stopping`` is set when the server begins
    to shut down, and current work then has ``shutdown_timeout`` seconds.
    """

    def __init__(
        self,
        sessions: VideoSessions,
        complete: Callable[[Any], Any],
        stopping: asyncio.Event,
        shutdown_timeout: float = SHUTDOWN_TIMEOUT,
    ) -> None:
        self._sessions = sessions
        self._complete = complete
        self._stopping = stopping
        self._shutdown_timeout = shutdown_timeout
        self._socket = web.WebSocketResponse(compress=False, max_msg_size=MAX_MESSAGE, timeout=3.0)

    async def serve(self, request: web.Request, name: str, caller: Caller) -> web.WebSocketResponse:
        """Receive a request from the client, answer it and close.

        The session must be one that ``caller`` may see. Raises ``BadRequest`` for a request that is
        no WebSocket's.
        """
        if not self._socket.can_prepare(request):
            raise BadRequest("This is a WebSocket: connect with a WebSocket client")
        await self._socket.prepare(request)
        try:
            await self._close(await self._handle(name, caller))
        except (ConnectionError, TimeoutError):
            if request.transport is not None:
                request.transport.abort()
        return self._socket

    async def _handle(self, name: str, caller: Caller) -> int:
        """Receive a request from the client and answer it; return the code to close with."""
        code = _NORMAL
        try:
            self._sessions.get(name, caller)  # at once: who waits for frames may never ask
            asked = await self._receive_request()
            if asked is not None:
                await self._while_connected(self._answer(name, caller, asked))
        except MataError as error:
            code = _NORMAL if error.status < 500 else _INTERNAL
            await self._send(ErrorMessage(error.detail))
        return _GOING_AWAY if self._stopping.is_set() else code

    async def _close(self, code: int) -> None:
        if not self._socket.closed:
            async with asyncio.timeout(self._timeout):
                await self._socket.close(code=code)

    @property
    def _timeout(self) -> float:
        return self._shutdown_timeout if self._stopping.is_set() else CLIENT_TIMEOUT

    async def _first_message(self) -> WSMessage:
        """Return the client's first message. Raises ``Unavailable`` when the server shuts down."""
        both = _concurrently(self._socket.receive(), self._stopping.wait())
        async with asyncio.timeout(CLIENT_TIMEOUT), both as (receiving, stopping):
            await asyncio.wait({receiving, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if receiving.done():
                message: WSMessage = receiving.result()
                return message
        raise shutdown_error()

    async def _receive_request(self) -> PropagateRequest | None:
        """Return the client's request; None when the client disconnects first."""
        message = await self._first_message()
        if message.type in _CLOSE_TYPES:
            return None
        try:
            data = message.data
            asked = decode_json(data.encode() if isinstance(data, str) else data, PropagateRequest)
        except (BadRequest, UnicodeError):
            raise InvalidParams("The message is not valid JSON") from None
        told: PropagateRequest = self._complete(asked)
        return told

    async def _answer(self, name: str, caller: Caller, asked: PropagateRequest) -> None:
        count = 0
        session = self._sessions.get(name, caller)
        async with contextlib.aclosing(session.propagate(asked)) as steps:
            async for step in steps:
                await self._send(
                    FrameMessage(step.frame_index, msgspec.Raw(step.objects), step.damaged)
                )
                count += 1
        await self._send(CompleteMessage(count))

    async def _send(self, message: object) -> None:
        """Send a message; return when the send buffer has room for the next."""
        async with asyncio.timeout(self._timeout):
            await self._socket.send_frame(msgspec.json.encode(message), WSMsgType.TEXT)

    async def _while_connected(self, work: Awaitable[None]) -> None:
        """Run ``work`` until it is done or the client disconnects. Further messages are ignored.

        At a shutdown ``work`` ends after the current frame; if that takes too long, or the client
        accepts nothing, it is cancelled. Raises ``Unavailable`` in both cases.
        """
        every = _concurrently(work, self._wait_for_close(), self._stopping.wait())
        async with every as (working, watching, stopping):
            first = asyncio.FIRST_COMPLETED
            await asyncio.wait({working, watching, stopping}, return_when=first)
            if not (working.done() or watching.done()):
                await asyncio.wait(
                    {working, watching}, timeout=self._shutdown_timeout, return_when=first
                )
            if working.done():
                working.result()
            elif not watching.done():
                raise shutdown_error()

    async def _wait_for_close(self) -> None:
        while (await self._socket.receive()).type not in _CLOSE_TYPES:
            pass


@contextlib.asynccontextmanager
async def _concurrently(*works: Awaitable[Any]) -> AsyncIterator[Sequence[asyncio.Future[Any]]]:
    """Run works concurrently; those that are not done when the context ends are cancelled."""
    tasks = [asyncio.ensure_future(each) for each in works]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
