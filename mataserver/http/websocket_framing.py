"""Checks a WebSocket's frames as they arrive, before aiohttp's reader.

aiohttp accepts unmasked frames, which a server must close with 1002 (RFC 6455, section 5.1), and it
buffers partial messages, which must count as in flight.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import WebSocketError, WSCloseCode

from mataserver.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp.http import WebSocketReader

    from mataserver.contract.bodies import Share

    FrameHandler = Callable[[bytes, int, int], bool]

_FRAMES_PER_READ = 64
"""Frames of one read that are handled at a time, and messages of it without the reader."""
_CONTROL = 0x8
"""Opcodes from here on are control frames (ping, pong, close): short, and between fragments."""


class FrameChecker:
    """Wraps a ``reader``; ``fail`` is called with errors in the client's frames.

    ``keep`` is called with what is left of many small frames: others are served before the rest.
    ``handler`` is offered the start and end of each frame that is a whole message, and may handle
    it instead of the reader.
    """

    def __init__(
        self,
        reader: WebSocketReader,
        share: Share,
        fail: Callable[[WebSocketError], None],
        keep: Callable[[bytes], None],
    ) -> None:
        self.handler: FrameHandler | None = None
        self._reader = reader
        self._share = share
        self._fail = fail
        self._keep = keep
        self._partial_header = b""
        self._left = 0
        self._control = self._final = self._is_ignoring = False
        self._size = self._reserved = 0

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Check bytes, then forward them; after a protocol error nothing more is read."""
        if not (self._left or self._partial_header or self._size or self._is_ignoring):
            if self.handler is not None and not (data := self._offer(data, self.handler)):
                return False, b""
            if _frame_end(data, 0) == len(data):
                return self._reader.feed_data(data)  # the common case: nothing is buffered
        try:
            control, end = self._track_frames(data)
            if not self._is_ignoring:
                self._reserve()
        except WebSocketError as error:
            self.end()
            self._fail(error)
            return True, b""
        if end < len(data):
            self._keep(data[end:])
            data = data[:end]
        return self._reader.feed_data(bytes(control) if self._is_ignoring else data)

    @staticmethod
    def _offer(data: bytes, handler: FrameHandler) -> bytes:
        """Offer whole messages from the start of the data; return the rest.

        Limited, so that others are not delayed: the next ones go through the reader and its queue.
        """
        at = taken = 0
        while (
            taken < _FRAMES_PER_READ
            and 0 < (end := _frame_end(data, at)) <= len(data)
            and handler(data, at, end)
        ):
            at, taken = end, taken + 1
        return data[at:] if at else data

    def ignore(self) -> None:
        """Discard further messages, to save memory; only the close frame is forwarded."""
        self.end()
        self._is_ignoring = True

    def feed_eof(self) -> None:
        """Forward the end of input."""
        self.end()
        self._reader.feed_eof()

    def end(self) -> None:
        """Release the share of an incomplete message."""
        self._share.give_back()
        self._reserved = self._size = 0

    def _track_frames(self, data: bytes) -> tuple[bytearray, int]:
        """Track the first frames in ``data``.

        Returns the bytes that belong to no message, and the end of what was tracked. Raises
        ``WebSocketError``.
        """
        control, before = bytearray(), 0
        if self._left < len(data):  # usually the middle of a large frame
            before = len(self._partial_header)
            data, self._partial_header = self._partial_header + data, b""
        at = count = 0
        while at < len(data) and count < _FRAMES_PER_READ:
            if self._left:
                step = min(self._left, len(data) - at)
                self._count_payload(step)
            else:
                step = _header_size(data, at)
                if not step or at + step > len(data):
                    self._partial_header = data[at:]
                    at = len(data)
                    break
                self._start_frame(data[at : at + step])
                count += 1
            if self._control:
                control += data[at : at + step]
            at += step
        return control, at - before

    def _start_frame(self, header: bytes) -> None:
        if not header[1] & 0x80:
            raise WebSocketError(WSCloseCode.PROTOCOL_ERROR, "A client's frame must be masked")
        self._control = header[0] & 0xF >= _CONTROL
        self._final = bool(header[0] & 0x80)
        length = header[1] & 0x7F
        self._left = length if length < 126 else int.from_bytes(header[2:-4], "big")
        self._count_payload(0)

    def _count_payload(self, count: int) -> None:
        """Count ``count`` bytes of the frame's payload as received."""
        self._left -= count
        if self._control:
            return
        self._size += count
        if not self._left and self._final:  # complete: its handler counts it
            self._size = 0

    def _reserve(self) -> None:
        """Count an incomplete message's bytes. Raises ``WebSocketError`` without room."""
        if self._size < self._reserved:
            self._share.give_back()
            self._reserved = 0
        if self._size > self._reserved:
            try:
                self._share.take(self._size - self._reserved)
            except Unavailable as error:
                raise WebSocketError(WSCloseCode.TRY_AGAIN_LATER, error.detail) from None
            self._reserved = self._size


def _frame_end(data: bytes, at: int) -> int:
    """Return the end of the frame at ``at``; 0 unless it is masked and ends a message."""
    if len(data) < at + 6 or not (data[at] & 0x80 and data[at + 1] & 0x80):
        return 0
    length, begin = data[at + 1] & 0x7F, at + 6
    if length >= 126:
        begin = at + (8 if length == 126 else 14)
        length = int.from_bytes(data[at + 2 : begin - 4], "big")
    return begin + length


def _header_size(data: bytes, at: int) -> int:
    """Return the size of the frame header at ``at``; 0 if it is incomplete."""
    if len(data) < at + 2:
        return 0
    masked, length = data[at + 1] & 0x80, data[at + 1] & 0x7F
    return 2 + {126: 2, 127: 8}.get(length, 0) + (4 if masked else 0)
