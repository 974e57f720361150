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

PIECE = 1 << 18
"""Bytes that are gathered, where they come in drops, before they are sent or kept as one piece."""
LARGE = 1 << 15
"""Bytes that are no drop."""


class BodyTooLarge(MataError):
    """413: a body over the limit."""

    status = 413


class LengthRequired(MataError):
    """411: a body that is too long to be kept, and whose length is not told before."""

    status = 411


class BodyTimeout(MataError):
    """408: a body that does not arrive."""

    status = 408


class BufferedBody:
    """A body that is here: it can be sent any number of times."""

    __slots__ = ("pieces", "size")
    begun = False

    def __init__(self, pieces: Sequence[bytes | memoryview], size: int) -> None:
        self.pieces = pieces
        self.size = size

    def known(self) -> Sequence[bytes]:
        """Return what is known of the body before it is sent."""
        return [bytes(each) for each in self.pieces]


class SentBody:
    """A body that was sent while it arrived, or the ``size`` bytes of it that had come."""

    __slots__ = ("size",)
    begun = True

    def __init__(self, size: int) -> None:
        self.size = size


class StreamingBody:
    """A body that is sent while it arrives, once.

    begun: whether some of it was sent; ``whole``: whether all of it was.
    watch: looks at each piece before it is sent; what it raises ends the sending.
    """

    __slots__ = ("_first", "_source", "begun", "size", "watch", "whole")

    def __init__(self, first: bytes, source: BodyReader, size: int) -> None:
        self._first, self._source = first, source
        self.size = size
        self.begun = self.whole = False
        self.watch: Callable[[bytes], Awaitable[None]] | None = None

    def known(self) -> Sequence[bytes]:
        """Return what is known of the body before it is sent."""
        return (self._first,)

    async def send(
        self, write: Callable[[bytes], None], drained: Callable[[], Awaitable[bool]]
    ) -> None:
        """Write what arrives, as long as more is wanted.

        Raises ``BodyTimeout`` and ``BadRequest``, and what ``watch`` does.
        """
        self.begun = True
        piece, left = self._first, self.size
        while piece:
            left -= len(piece)
            if self.watch is not None:
                await self.watch(piece)
            write(piece)
            if not await drained():
                return
            piece = await self._source.piece()
        if left:
            raise BadRequest("The body is shorter than its Content-Length")
        self.whole = True


class BodyReader:
    """Reads a request's body. ``patience`` is how many seconds it may pause."""

    __slots__ = ("_content", "_patience")

    def __init__(self, content: StreamReader, patience: float) -> None:
        self._content = content
        self._patience = patience

    async def piece(self) -> bytes:
        """Return the next part of the body: a large one, but for the last; nothing after it.

        Raises ``BodyTimeout``.
        """
        chunk = await self._chunk()
        if len(chunk) >= LARGE or not chunk:
            return chunk  # as it came: copying it would cost more than all the rest
        found, size = [chunk], len(chunk)
        while size < PIECE and (chunk := await self._chunk()):
            found.append(chunk)
            size += len(chunk)
        return found[0] if len(found) == 1 else b"".join(found)

    async def _chunk(self) -> bytes:
        """Return what has arrived, nothing after the end. Raises ``BodyTimeout``."""
        content = self._content
        if content.is_eof():  # what is here already needs no timer
            return content.read_nowait()
        try:
            async with asyncio.timeout(self._patience):
                return await content.readany()
        except TimeoutError:
            raise BodyTimeout("The body did not arrive in time") from None


class BodyLoader:
    """Reads bodies. ``kept`` and ``most`` are in bytes, ``patience`` in seconds.

    kept: a body up to this is kept and can be sent again.
    most: the largest that passes.
    """

    def __init__(self, kept: int, most: int, patience: float) -> None:
        self.kept, self._most = min(kept, most), most
        self.patience = patience

    async def read(self, request: web.Request, share: Share) -> BufferedBody | StreamingBody | None:
        """Return the body of a request; ``share`` is what it may hold of the bytes in flight.

        Raises 400, 408, 411, 413 and 503.
        """
        if not request.body_exists:
            return None
        length = request.content_length
        if length is not None and length > self._most:
            raise BodyTooLarge(f"The body is over the limit of {self._most} bytes")
        source = BodyReader(request.content, self.patience)
        if length is not None and length > self.kept:
            return StreamingBody(await source.piece(), source, length)
        whole = await self._whole(source, share)
        if length is not None and whole.size != length:
            raise BadRequest("The body is shorter than its Content-Length")
        return whole

    async def _whole(self, source: BodyReader, share: Share) -> BufferedBody:
        pieces: list[bytes] = []
        size = 0
        while piece := await source.piece():
            size += len(piece)
            if size > self.kept:
                raise LengthRequired(
                    f"A body of more than {self.kept} bytes must tell its Content-Length"
                )
            share.take(len(piece))
            pieces.append(piece)
        return BufferedBody(pieces, size)
