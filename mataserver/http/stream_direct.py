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

    from mataserver.http.head_connection import CachingConnection
    from mataserver.http.sockets import WebSocket
    from mataserver.http.stream_channel import CloseReason, StreamSettings
    from mataserver.http.stream_connection import Frame
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
        settings: StreamSettings,
        session: Session,
        socket: WebSocket,
        connection: CachingConnection,
        largest: int,
    ) -> None:
        super().__init__(settings, session, socket)
        self._connection = connection
        self._largest = largest
        self._handling = False
        self._queue: Any = socket._reader  # noqa: SLF001

    async def run(self) -> CloseReason:
        """Serve until either side closes; return why. No task outlives it."""
        self._connection.on_frame(self.handle_frame)
        try:
            return await super().run()
        finally:
            self._connection.on_frame(None)

    # Input

    def handle_frame(self, data: bytes, begin: int, end: int) -> bool:
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
            self._context.copy().run(self._on_pong, _unmasked(data, mask, end))
            return True
        share = BudgetShare(self._settings.budget, self._session.owner)
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

    def _deliver(self, frame: Frame) -> None:
        """Send the result at once, if it is an answer and the next to be sent."""
        result = frame.result
        if (
            self._sending
            or self._pending[0] is not frame
            or not isinstance(result, Outcome)
            or result.failure is not None
            or not isinstance(result.body, bytes)
            or len(result.body) > codec.SINGLE_WRITE_BYTES
            or not self._can_write
        ):
            super()._deliver(frame)
            return
        try:
            self._session.record(result)
            body = self._session.body(result, self._form, frame.number)
        except Exception:  # noqa: BLE001 - the task raises it again and closes the connection
            super()._deliver(frame)
            return
        self._session.results += 1
        self._write(body, self._new_ping())
        self._pending.popleft()
        note_sent(self._settings, self._session, frame, body, self._form)
        if not self._pending:
            self._idle.set()
        elif self._pending[0].result is not None:  # found before this one was: its turn has come
            self._result_ready.set()

    async def _answer(self, value: object) -> None:
        """Answer a frame, with its ping in the same write if possible."""
        body = codec.encode(value, self._form)
        if self._can_write and len(body) <= codec.SINGLE_WRITE_BYTES:
            self._write(body, self._new_ping())
        else:
            await super()._answer(body)

    @property
    def _can_write(self) -> bool:
        connection = self._connection
        transport = connection.transport
        return (
            transport is not None
            and not transport.is_closing()
            and not connection.writing_paused
            and not self._socket.closed
            and not self._closing.done()
        )

    def _write(self, body: bytes, ping: bytes) -> None:
        transport: Any = self._connection.transport
        kind = WSMsgType.TEXT if self._form == "json" else WSMsgType.BINARY
        ping_header = _frame_header(WSMsgType.PING, len(ping))
        transport.write(b"".join((_frame_header(kind, len(body)), body, ping_header, ping)))


def _unmasked(data: bytes, mask: int, end: int) -> bytes:
    payload = bytearray(memoryview(data)[mask + _MASK : end])
    websocket_mask(data[mask : mask + _MASK], payload)
    return bytes(payload)


def _frame_header(kind: int, size: int) -> bytes:
    """Return the header of a whole, unmasked frame."""
    if size < _SHORT:
        return bytes((_FINAL | kind, size))
    if size < 1 << 16:
        return _HEAD_OF_SHORT.pack(_FINAL | kind, _SHORT, size)
    return _HEAD_OF_LONG.pack(_FINAL | kind, _LONG, size)
