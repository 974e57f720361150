"""Incremental decompression of bodies (RFC 9110, section 8.4.1): gzip and deflate.

Data may expand a thousandfold, so the caller must limit the sum of the pieces.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from zlib_ng import zlib_ng

from mataserver.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

PIECE = 1 << 18
"""Maximum bytes of a piece."""
MOST_MEMBERS = 4_096
"""Maximum members of a gzip body. Tools that write many (bgzip) put 64 kB into each."""
_GZIP, _ZLIB, _RAW = 31, 15, -15
_WINDOWS = {"gzip": _GZIP, "x-gzip": _GZIP, "deflate": _ZLIB}
ENCODINGS = frozenset(_WINDOWS)
PLAIN = frozenset({"identity", ""})
"""Encodings without effect."""
_ERROR = cast(type[Exception], zlib_ng.error)


class Inflater:
    """Decompresses one body in chunks. Raises ``BadRequest`` for corrupt data."""

    def __init__(self, encoding: str) -> None:
        """Start a body with one of ``ENCODINGS``."""
        self._window = _WINDOWS[encoding]
        self._inner: Any = zlib_ng.decompressobj(self._window)
        self._begun = False
        self._members = 1

    def pieces(self, chunk: bytes) -> Iterator[bytes]:
        """Yield a chunk's decompressed data, at most ``PIECE`` bytes at a time."""
        while chunk:
            if self._inner.eof:
                if self._window != _GZIP or self._members == MOST_MEMBERS:
                    raise _damaged()
                self._members += 1
                self._inner = zlib_ng.decompressobj(_GZIP)  # the next member of a gzip file
            yield self._inflate(chunk)
            chunk = self._inner.unconsumed_tail or self._inner.unused_data

    def rest(self) -> bytes:
        """Return the remaining data at the end of the body."""
        try:
            rest: bytes = self._inner.flush()
        except _ERROR:
            raise _damaged() from None
        if not self._inner.eof:
            raise _damaged()
        return rest

    def _inflate(self, chunk: bytes) -> bytes:
        try:
            piece: bytes = self._inner.decompress(chunk, PIECE)
        except _ERROR:
            if self._begun or self._window != _ZLIB:
                raise _damaged() from None
            self._begun, self._inner = True, zlib_ng.decompressobj(_RAW)  # a common deviation
            return self._inflate(chunk)
        self._begun = True
        return piece


def _damaged() -> BadRequest:
    return BadRequest("The body does not match its Content-Encoding")
