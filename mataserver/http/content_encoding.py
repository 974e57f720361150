"""Incremental decompression of bodies (RFC 9110, section 8.4.1): gzip and deflate.

Data may expand a thousandfold, so the caller must limit the sum of the pieces.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from zlib_ng import zlib_ng

from mataserver.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_PIECE = 1 << 18
"""Maximum bytes of a piece."""
MAX_MEMBERS = 4_096
"""Maximum members of a gzip body. Tools that write many (bgzip) put 64 kB into each."""
_GZIP, _ZLIB, _RAW = 31, 15, -15
_WINDOWS = {"gzip": _GZIP, "x-gzip": _GZIP, "deflate": _ZLIB}
ENCODINGS = frozenset(_WINDOWS)
IDENTITY = frozenset({"identity", ""})
"""Encodings without effect."""
_ERROR = cast(type[Exception], zlib_ng.error)


class Decompressor:
    """Decompresses one body in chunks. Raises ``BadRequest`` for corrupt data."""

    def __init__(self, encoding: str) -> None:
        """Start a body with one of ``ENCODINGS``."""
        self._window = _WINDOWS[encoding]
        self._decoder: Any = zlib_ng.decompressobj(self._window)
        self._has_output = False
        self._members = 1

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Yield a chunk's decompressed data, at most ``MAX_PIECE`` bytes at a time."""
        while chunk:
            if self._decoder.eof:
                if self._window != _GZIP or self._members == MAX_MEMBERS:
                    raise _corrupt_body()
                self._members += 1
                self._decoder = zlib_ng.decompressobj(_GZIP)  # the next member of a gzip file
            yield self._decompress(chunk)
            chunk = self._decoder.unconsumed_tail or self._decoder.unused_data

    def finish(self) -> bytes:
        """Return the remaining data at the end of the body."""
        try:
            rest: bytes = self._decoder.flush()
        except _ERROR:
            raise _corrupt_body() from None
        if not self._decoder.eof:
            raise _corrupt_body()
        return rest

    def _decompress(self, chunk: bytes) -> bytes:
        try:
            piece: bytes = self._decoder.decompress(chunk, MAX_PIECE)
        except _ERROR:
            if self._has_output or self._window != _ZLIB:
                raise _corrupt_body() from None
            # A common deviation: deflate without the frame of zlib.
            self._has_output, self._decoder = True, zlib_ng.decompressobj(_RAW)
            return self._decompress(chunk)
        self._has_output = True
        return piece


def _corrupt_body() -> BadRequest:
    return BadRequest("The body does not match its Content-Encoding")
