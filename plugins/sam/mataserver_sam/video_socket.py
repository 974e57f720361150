"""A propagation over a WebSocket: one message a frame, as fast as the client takes them.

A frame is computed when the one before it has left, so a slow client slows down its own session
and fills no buffer. A client that goes away ends the work between two frames, and so does a server
that shuts down.
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
from mataserver_sam.video_session import shutting_down

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from aiohttp import WSMessage

    from mataserver_sam.video_sessions import VideoSessions

MAX_MESSAGE = 65_536
"""Bytes of a client's message."""

PATIENCE = 60.0
"""Seconds for a client to say what it wants, and to take a frame."""

LAST_FRAME = 5.0
"""Seconds for the frame under way, and for what the client has yet to take, at a shutdown."""

_NORMAL, _GOING_AWAY, _INTERNAL = 1000, 1001, 1011
_ENDS = frozenset({WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR})


class VideoSocket:
    """Serves one socket.

    ``formed`` completes a request with the server's defaults; ``stopping`` is set when the server
    begins to shut down, and what is under way then has ``last`` seconds.
    """

    def __init__(
        self,
        sessions: VideoSessions,
        formed: Callable[[Any], Any],
        stopping: asyncio.Event,
        last: float = LAST_FRAME,
    ) -> None:
        self._sessions = sessions
        self._formed = formed
        self._stopping = stopping
        self._last = last
        self._socket = web.WebSocketResponse(compress=False, max_msg_size=MAX_MESSAGE, timeout=3.0)

    async def serve(
        self, request: web.Request, name: str, owner: str | None = None
    ) -> web.WebSocketResponse:
        """Take a request from the client, answer it and close.

        With ``owner`` the session is one of theirs.
        """
        await self._socket.prepare(request)
        try:
            await self._close(await self._served(name, owner))
        except (ConnectionError, TimeoutError):
            if request.transport is not None:
                request.transport.abort()
        return self._socket

    async def _served(self, name: str, owner: str | None) -> int:
        """Take a request from the client and answer it; return the code to close with."""
        code = _NORMAL
        try:
            asked = await self._asked()
            if asked is not None:
                await self._while_there(self._answer(name, owner, asked))
        except MataError as error:
            code = _NORMAL if error.status < 500 else _INTERNAL
            await self._tell(ErrorMessage(error.detail))
        return _GOING_AWAY if self._stopping.is_set() else code

    async def _close(self, code: int) -> None:
        if not self._socket.closed:
            async with asyncio.timeout(self._patience):
                await self._socket.close(code=code)

    @property
    def _patience(self) -> float:
        return self._last if self._stopping.is_set() else PATIENCE

    async def _first(self) -> WSMessage:
        """Return the client's first message. Raises ``Unavailable`` when the server shuts down."""
        both = _together(self._socket.receive(), self._stopping.wait())
        async with asyncio.timeout(PATIENCE), both as (receiving, stopping):
            await asyncio.wait({receiving, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if receiving.done():
                message: WSMessage = receiving.result()
                return message
        raise shutting_down()

    async def _asked(self) -> PropagateRequest | None:
        """Return what the client wants; None when it goes first."""
        message = await self._first()
        if message.type in _ENDS:
            return None
        try:
            data = message.data
            asked = decode_json(data.encode() if isinstance(data, str) else data, PropagateRequest)
        except (BadRequest, UnicodeError):
            raise InvalidParams("The message is not valid JSON") from None
        told: PropagateRequest = self._formed(asked)
        return told

    async def _answer(self, name: str, owner: str | None, asked: PropagateRequest) -> None:
        count = 0
        session = self._sessions.get(name, owner)
        async with contextlib.aclosing(session.propagate(asked)) as steps:
            async for step in steps:
                await self._tell(FrameMessage(step.frame_index, msgspec.Raw(step.objects)))
                count += 1
        await self._tell(CompleteMessage(count))

    async def _tell(self, message: object) -> None:
        """Send a message; return when the client has made room for the next."""
        async with asyncio.timeout(self._patience):
            await self._socket.send_frame(msgspec.json.encode(message), WSMsgType.TEXT)

    async def _while_there(self, work: Awaitable[None]) -> None:
        """Do ``work`` until it is done or the client goes. What it says meanwhile is ignored.

        When the server shuts down, ``work`` ends by itself after the frame under way; if that takes
        too long, or the client takes nothing, it is given up. Raises ``Unavailable`` for both.
        """
        every = _together(work, self._gone(), self._stopping.wait())
        async with every as (working, watching, stopping):
            first = asyncio.FIRST_COMPLETED
            await asyncio.wait({working, watching, stopping}, return_when=first)
            if not (working.done() or watching.done()):
                await asyncio.wait({working, watching}, timeout=self._last, return_when=first)
            if working.done():
                working.result()
            elif not watching.done():
                raise shutting_down()

    async def _gone(self) -> None:
        while (await self._socket.receive()).type not in _ENDS:
            pass


@contextlib.asynccontextmanager
async def _together(*works: Awaitable[Any]) -> AsyncIterator[Sequence[asyncio.Future[Any]]]:
    """Do works side by side; what is not done when the context ends is cancelled."""
    tasks = [asyncio.ensure_future(each) for each in works]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
