"""Bodies of requests: short ones are kept, to be sent again; long ones pass through.

Either way a server is sent an explicit length and large pieces, never a form and never the client's
chunks: a Triton of 2025 dies of a body in chunks of two bytes.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mataserver import BadRequest, MataError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from aiohttp import StreamReader, web

    from mataserver import Share

PIECE_BYTES = 1 << 18
"""Bytes up to which small pieces are joined before they are sent or kept."""
LARGE_PIECE_BYTES = 1 << 15
"""Bytes from which a piece is not joined with others."""


class BodyTooLarge(MataError):
    """413: a body over the limit."""

    status = 413


class LengthRequired(MataError):
    """411: a body that is too long to buffer and has no Content-Length."""

    status = 411


class BodyTimeout(MataError):
    """408: the body did not arrive in time."""

    status = 408


class BufferedBody:
    """A body in memory: it can be sent any number of times."""

    __slots__ = ("pieces", "size")
    begun = False

    def __init__(self, pieces: Sequence[bytes | memoryview], size: int) -> None:
        self.pieces = pieces
        self.size = size

    def known_pieces(self) -> Sequence[bytes]:
        """Return the pieces in memory before the body is sent."""
        return [bytes(each) for each in self.pieces]


class SentBody:
    """A body that was sent while it arrived; ``size`` is how many bytes had arrived."""

    __slots__ = ("size",)
    begun = True

    def __init__(self, size: int) -> None:
        self.size = size


class StreamingBody:
    """A body that is sent while it arrives, once.

    begun: whether some of it was sent; ``whole``: whether all of it was.
    inspect: called with each piece before it is sent; what it raises ends the sending.
    """

    __slots__ = ("_first_piece", "_reader", "begun", "inspect", "size", "whole")

    def __init__(self, first: bytes, reader: BodyReader, size: int) -> None:
        self._first_piece, self._reader = first, reader
        self.size = size
        self.begun = self.whole = False
        self.inspect: Callable[[bytes], Awaitable[None]] | None = None

    def known_pieces(self) -> Sequence[bytes]:
        """Return the pieces in memory before the body is sent."""
        return (self._first_piece,)

    async def send(
        self, write: Callable[[bytes], None], wait_writable: Callable[[], Awaitable[bool]]
    ) -> None:
        """Write the body as it arrives, until the server wants no more of it.

        Raises ``BodyTimeout`` and ``BadRequest``, and what ``inspect`` does.
        """
        self.begun = True
        piece, left = self._first_piece, self.size
        while piece:
            left -= len(piece)
            if self.inspect is not None:
                await self.inspect(piece)
            write(piece)
            if not await wait_writable():
                return
            piece = await self._reader.next_piece()
        if left:
            raise BadRequest("The body is shorter than its Content-Length")
        self.whole = True


class BodyReader:
    """Reads a request's body. ``timeout`` is how many seconds it may pause."""

    __slots__ = ("_stream", "_timeout")

    def __init__(self, content: StreamReader, timeout: float) -> None:
        self._stream = content
        self._timeout = timeout

    async def next_piece(self) -> bytes:
        """Return the next part of the body: a large one, but for the last; nothing after it.

        Raises ``BodyTimeout``.
        """
        chunk = await self._read_chunk()
        if len(chunk) >= LARGE_PIECE_BYTES or not chunk:
            return chunk  # as it came: copying it would cost more than all the rest
        found, size = [chunk], len(chunk)
        while size < PIECE_BYTES and (chunk := await self._read_chunk()):
            found.append(chunk)
            size += len(chunk)
        return found[0] if len(found) == 1 else b"".join(found)

    async def _read_chunk(self) -> bytes:
        """Return the bytes that have arrived, none after the end. Raises ``BodyTimeout``."""
        content = self._stream
        if content.is_eof():  # what is here already needs no timer
            return content.read_nowait()
        try:
            async with asyncio.timeout(self._timeout):
                return await content.readany()
        except TimeoutError:
            raise BodyTimeout("The body did not arrive in time") from None


class BodyLoader:
    """Reads bodies. ``buffer_bytes`` and ``max_bytes`` are in bytes, ``timeout`` in seconds.

    kept: a body up to this is kept and can be sent again.
    most: the largest that passes.
    """

    def __init__(self, buffer_bytes: int, max_bytes: int, timeout: float) -> None:
        self.buffer_bytes, self._max_bytes = min(buffer_bytes, max_bytes), max_bytes
        self.timeout = timeout

    async def read(self, request: web.Request, share: Share) -> BufferedBody | StreamingBody | None:
        """Return the body of a request; ``share`` is what it may hold of the bytes in flight.

        Raises 400, 408, 411, 413 and 503.
        """
        if not request.body_exists:
            return None
        length = request.content_length
        if length is not None and length > self._max_bytes:
            raise BodyTooLarge(f"The body is over the limit of {self._max_bytes} bytes")
        reader = BodyReader(request.content, self.timeout)
        if length is not None and length > self.buffer_bytes:
            return StreamingBody(await reader.next_piece(), reader, length)
        whole = await self._read_buffered(reader, share)
        if length is not None and whole.size != length:
            raise BadRequest("The body is shorter than its Content-Length")
        return whole

    async def _read_buffered(self, reader: BodyReader, share: Share) -> BufferedBody:
        pieces: list[bytes] = []
        size = 0
        while piece := await reader.next_piece():
            size += len(piece)
            if size > self.buffer_bytes:
                raise LengthRequired(
                    f"A body of more than {self.buffer_bytes} bytes must have a Content-Length"
                )
            share.take(len(piece))
            pieces.append(piece)
        return BufferedBody(pieces, size)
