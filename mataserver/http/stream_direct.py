"""A session's socket that bypasses aiohttp's reader and the connection's tasks.

A whole frame that arrives while nothing else waits goes to the model at once, and the worker's
answer is sent with its ping in one write. Anything unusual (a partial frame, an earlier message, no
room, a slow client, a failure) takes the general path, unchanged.

Depends on private parts of aiohttp, its message queue and unmasking, and is used where known heads
are.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from aiohttp import WSMsgType
from aiohttp._websocket.helpers import websocket_mask

from mataserver.engines.work import Outcome
from mataserver.errors import Unavailable
from mataserver.http import codec
from mataserver.http.budget import BudgetShare
from mataserver.http.stream_connection import Connection, note_sent

if TYPE_CHECKING:
    from aiohttp import WSMessage

    from mataserver.http.head_connection import CachingConversation
    from mataserver.http.sockets import WebSocket
    from mataserver.http.stream_channel import CloseReason, Terms
    from mataserver.http.stream_frames import Taken
    from mataserver.serving.sessions import Session

_FINAL = 0x80
_BINARY, _PONG = _FINAL | WSMsgType.BINARY, _FINAL | WSMsgType.PONG
_DIRECT = frozenset({_BINARY, _PONG})
_SHORT, _LONG = 126, 127
_MASK = 4
_HEAD_OF_SHORT, _HEAD_OF_LONG = struct.Struct("!BBH"), struct.Struct("!BBQ")


class DirectConnection(Connection):
    """A socket whose client sends the frames, on a connection with the fast path."""

    def __init__(
        self,
        terms: Terms,
        session: Session,
        socket: WebSocket,
        conversation: CachingConversation,
        largest: int,
    ) -> None:
        super().__init__(terms, session, socket)
        self._conversation = conversation
        self._largest = largest
        self._handling = False
        self._queue: Any = socket._reader  # noqa: SLF001

    async def run(self) -> CloseReason:
        """Serve until either side closes; return why. No task outlives it."""
        self._conversation.on_frame(self.take)
        try:
            return await super().run()
        finally:
            self._conversation.on_frame(None)

    # Input

    def take(self, data: bytes, begin: int, end: int) -> bool:
        """Handle a whole frame if it is a picture or a pong; False leaves it to aiohttp."""
        kind, queue = data[begin], self._queue
        if (
            kind not in _DIRECT
            or self._handling
            or queue._buffer  # noqa: SLF001
            or queue._stalled_reader is not None  # noqa: SLF001
            or self._closing.done()
        ):
            return False
        length = data[begin + 1] & 0x7F
        mask = begin + (2 if length < _SHORT else 4 if length == _SHORT else 10)
        size = end - mask - _MASK
        if kind == _PONG:
            if length >= _SHORT:
                return False
            self._context.copy().run(self._ponged, _unmasked(data, mask, end))
            return True
        share = BudgetShare(self._terms.budget, self._session.owner)
        try:
            if size > self._largest:
                return False
            share.take(size)
        except Unavailable:
            return False
        self._context.copy().run(self._receive, _unmasked(data, mask, end), share)
        return True

    async def _handle(self, message: WSMessage) -> None:
        self._handling = True  # later messages wait behind it
        try:
            await super()._handle(message)
        finally:
            self._handling = False

    # Output

    def _tell(self, taken: Taken) -> None:
        """Send the result at once, if it is an answer and the next to be sent."""
        found = taken.found
        if (
            self._sending
            or self._taken[0] is not taken
            or not isinstance(found, Outcome)
            or found.failure is not None
            or not isinstance(found.body, bytes)
            or len(found.body) > codec.WHOLE
            or not self._may_write
        ):
            super()._tell(taken)
            return
        try:
            self._session.record(found)
            body = self._session.body(found, self._form, taken.number)
        except Exception:  # noqa: BLE001 - the task raises it again and closes the connection
            super()._tell(taken)
            return
        self._session.results += 1
        self._write(body, self._new_ping())
        self._taken.popleft()
        note_sent(self._terms, self._session, taken, body, self._form)
        if not self._taken:
            self._idle.set()
        elif self._taken[0].found is not None:  # found before this one was: its turn has come
            self._found.set()

    async def _answer(self, value: object) -> None:
        """Answer a frame, with its ping in the same write if possible."""
        body = codec.encode(value, self._form)
        if self._may_write and len(body) <= codec.WHOLE:
            self._write(body, self._new_ping())
        else:
            await super()._answer(body)

    @property
    def _may_write(self) -> bool:
        conversation = self._conversation
        transport = conversation.transport
        return (
            transport is not None
            and not transport.is_closing()
            and not conversation.writing_paused
            and not self._socket.closed
            and not self._closing.done()
        )

    def _write(self, body: bytes, ping: bytes) -> None:
        transport: Any = self._conversation.transport
        kind = WSMsgType.TEXT if self._form == "json" else WSMsgType.BINARY
        behind = _head(WSMsgType.PING, len(ping))
        transport.write(b"".join((_head(kind, len(body)), body, behind, ping)))


def _unmasked(data: bytes, mask: int, end: int) -> bytes:
    """Return the unmasked payload after the mask."""
    payload = bytearray(memoryview(data)[mask + _MASK : end])
    websocket_mask(data[mask : mask + _MASK], payload)
    return bytes(payload)


def _head(kind: int, size: int) -> bytes:
    """Return the header of a whole, unmasked frame."""
    if size < _SHORT:
        return bytes((_FINAL | kind, size))
    if size < 1 << 16:
        return _HEAD_OF_SHORT.pack(_FINAL | kind, _SHORT, size)
    return _HEAD_OF_LONG.pack(_FINAL | kind, _LONG, size)
