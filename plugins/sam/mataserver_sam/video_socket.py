"""A propagation over a WebSocket: one message a frame, as fast as the client takes them.

A frame is computed when the one before it has left, so a slow client slows down its own session
and fills no buffer. A client that goes away ends the work between two frames.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import WSMsgType, web

from mataserver import InvalidParams, MataError
from mataserver_sam.video_requests import (
    CompleteMessage,
    ErrorMessage,
    FrameMessage,
    PropagateRequest,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver_sam.video_sessions import VideoSessions

MAX_MESSAGE = 65_536
"""Bytes of a client's message."""

PATIENCE = 60.0
"""Seconds for a client to say what it wants, and to take a frame."""

_NORMAL, _INTERNAL = 1000, 1011
_ENDS = frozenset({WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR})


class VideoSocket:
    """Serves one socket. ``formed`` completes a request with the server's defaults."""

    def __init__(self, sessions: VideoSessions, formed: Callable[[Any], Any]) -> None:
        self._sessions = sessions
        self._formed = formed
        self._socket = web.WebSocketResponse(compress=False, max_msg_size=MAX_MESSAGE, timeout=3.0)

    async def serve(self, request: web.Request, name: str) -> web.WebSocketResponse:
        """Take a request from the client, answer it and close."""
        socket = self._socket
        await socket.prepare(request)
        code = _NORMAL
        try:
            asked = await self._asked()
            if asked is not None:
                await self._while_there(self._answer(name, asked))
        except MataError as error:
            code = _NORMAL if error.status < 500 else _INTERNAL
            await self._tell(ErrorMessage(error.detail))
        except (ConnectionError, TimeoutError):
            if request.transport is not None:
                request.transport.abort()
            return socket
        if not socket.closed:
            with contextlib.suppress(ConnectionError, TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    await socket.close(code=code)
        return socket

    async def _asked(self) -> PropagateRequest | None:
        """Return what the client wants; None when it goes first."""
        async with asyncio.timeout(PATIENCE):
            message = await self._socket.receive()
        if message.type in _ENDS:
            return None
        try:
            asked = msgspec.json.decode(message.data, type=PropagateRequest)
        except msgspec.ValidationError as error:
            raise InvalidParams(str(error)) from None
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            raise InvalidParams("The message is not valid JSON") from None
        told: PropagateRequest = self._formed(asked)
        return told

    async def _answer(self, name: str, asked: PropagateRequest) -> None:
        count = 0
        session = self._sessions.get(name)
        async with contextlib.aclosing(self._sessions.propagate(session, asked)) as steps:
            async for step in steps:
                await self._tell(FrameMessage(step.frame_index, msgspec.Raw(step.objects)))
                count += 1
        await self._tell(CompleteMessage(count))

    async def _tell(self, message: object) -> None:
        """Send a message; return when the client has made room for the next."""
        async with asyncio.timeout(PATIENCE):
            await self._socket.send_frame(msgspec.json.encode(message), WSMsgType.TEXT)

    async def _while_there(self, work: Any) -> None:
        """Do ``work`` until it is done or the client goes. What it says meanwhile is ignored."""
        working, watching = asyncio.ensure_future(work), asyncio.ensure_future(self._gone())
        try:
            await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()
        finally:
            working.cancel()
            watching.cancel()
            await asyncio.gather(working, watching, return_exceptions=True)

    async def _gone(self) -> None:
        while (await self._socket.receive()).type not in _ENDS:
            pass
