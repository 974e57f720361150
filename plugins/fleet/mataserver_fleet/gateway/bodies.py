"""Bodies of requests: short ones are kept, to be sent again; long ones pass through.

Either way a server is sent an explicit length and large pieces, never a form and never the client's
chunks: a Triton of 2025 dies of a body in chunks of two bytes.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from aiohttp.payload import Payload

from mataserver import BadRequest, MataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiohttp import StreamReader, web
    from aiohttp.abc import AbstractStreamWriter

PIECE = 1 << 18
"""Bytes that are gathered before they are sent or kept as one piece."""
HEAD = 1 << 14
"""Bytes of a body that go with the header fields in one write; the rest is not copied."""


class Share(Protocol):
    """A share of the server's bytes in flight."""

    def take(self, count: int) -> None:
        """Take bytes more. Raises ``Unavailable``."""

    def give_back(self) -> None:
        """Give all of it back."""


class TooLong(MataError):
    """413: a body over the limit."""

    status = 413


class NoLength(MataError):
    """411: a body that is too long to be kept, and whose length is not told before."""

    status = 411


class TooLate(MataError):
    """408: a body that does not arrive."""

    status = 408


class Whole(Payload):
    """A body that is here: it can be sent any number of times."""

    _autoclose = True

    def __init__(self, pieces: Sequence[bytes], size: int) -> None:
        super().__init__(pieces, headers={})
        self.pieces = pieces
        self._size = size

    def start(self) -> bytes:
        """Return what is known of the body before it is sent."""
        return self.pieces[0] if len(self.pieces) == 1 else b"".join(self.pieces)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Return the body as text."""
        return b"".join(self.pieces).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Write the body where it lies."""
        for piece in self.pieces:
            if len(piece) > HEAD:
                view = memoryview(piece)
                await writer.write(view[:HEAD])
                await writer.write(view[HEAD:])
            else:
                await writer.write(piece)


class Passing(Payload):
    """A body that is sent while it arrives, once. ``error`` is why it did not arrive whole."""

    _autoclose = True

    def __init__(self, first: bytes, source: Source, size: int) -> None:
        super().__init__(first, headers={})
        self._first, self._source = first, source
        self._size = size
        self.error: MataError | None = None
        self.begun = False

    def start(self) -> bytes:
        """Return what is known of the body before it is sent."""
        return self._first

    def decode(self, _encoding: str = "utf-8", _errors: str = "strict") -> str:
        """Raise ``TypeError``: it is not here."""
        raise TypeError("a body that passes through is not here")

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Write what arrives."""
        self.begun = True
        try:
            piece = self._first
            while piece:
                await writer.write(piece)
                piece = await self._source.piece()
        except MataError as error:
            self.error = error
            raise


class Source:
    """Reads a request's body. ``patience`` is how many seconds it may pause."""

    def __init__(self, content: StreamReader, patience: float) -> None:
        self._content = content
        self._patience = patience

    async def piece(self) -> bytes:
        """Return the next ``PIECE`` bytes or somewhat more, less at the end, nothing after it.

        Raises ``TooLate``.
        """
        found: list[bytes] = []
        size = 0
        while size < PIECE:
            chunk = await self.chunk()
            if not chunk:
                break
            found.append(chunk)
            size += len(chunk)
        return found[0] if len(found) == 1 else b"".join(found)

    async def chunk(self) -> bytes:
        """Return what has arrived, nothing after the end. Raises ``TooLate``."""
        content = self._content
        if content.is_eof():  # what is here already needs no timer
            return content.read_nowait()
        try:
            async with asyncio.timeout(self._patience):
                return await content.readany()
        except TimeoutError:
            raise TooLate("The body did not arrive in time") from None


class Bodies:
    """Reads bodies. ``kept`` and ``most`` are in bytes, ``patience`` in seconds.

    kept: a body up to this is kept and can be sent again.
    most: the largest that passes.
    """

    def __init__(self, kept: int, most: int, patience: float) -> None:
        self._kept, self._most = min(kept, most), most
        self._patience = patience

    async def read(self, request: web.Request, share: Share) -> Whole | Passing | None:
        """Return the body of a request; ``share`` is what it may hold of the bytes in flight.

        Raises 400, 408, 411, 413 and 503.
        """
        if not request.body_exists:
            return None
        length = request.content_length
        if length is not None and length > self._most:
            raise TooLong(f"The body is over the limit of {self._most} bytes")
        source = Source(request.content, self._patience)
        if length is not None and length > self._kept:
            return Passing(await source.piece(), source, length)
        whole = await self._whole(source, share)
        if length is not None and whole.size != length:
            raise BadRequest("The body is shorter than its Content-Length")
        return whole

    async def _whole(self, source: Source, share: Share) -> Whole:
        pieces: list[bytes] = []
        size = 0
        while piece := await source.piece():
            size += len(piece)
            if size > self._kept:
                raise NoLength(
                    f"A body of more than {self._kept} bytes must tell its Content-Length"
                )
            share.take(len(piece))
            pieces.append(piece)
        return Whole(pieces, size)
