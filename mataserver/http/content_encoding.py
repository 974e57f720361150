"""Compressed bodies (RFC 9110, section 8.4.1): gzip and deflate, undone piece by piece.

A thousandth of a body can be the whole of it, so whoever reads the pieces bounds their sum.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from zlib_ng import zlib_ng

from mataserver.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

PIECE = 1 << 18
"""Bytes of a piece at most."""
MOST_MEMBERS = 4_096
"""Members of a gzip body. Tools that write many (bgzip) put some 64 kB into each."""
_GZIP, _ZLIB, _RAW = 31, 15, -15
_WINDOWS = {"gzip": _GZIP, "x-gzip": _GZIP, "deflate": _ZLIB}
ENCODINGS = frozenset(_WINDOWS)
PLAIN = frozenset({"identity", ""})
"""Encodings that change nothing."""
_ERROR = cast(type[Exception], zlib_ng.error)


class Inflater:
    """Decompresses one body that comes in chunks. Raises ``BadRequest`` for what is damaged."""

    def __init__(self, encoding: str) -> None:
        """Begin a body of one of ``ENCODINGS``."""
        self._window = _WINDOWS[encoding]
        self._inner: Any = zlib_ng.decompressobj(self._window)
        self._begun = False
        self._members = 1

    def pieces(self, chunk: bytes) -> Iterator[bytes]:
        """Yield what a chunk holds, at most ``PIECE`` bytes at a time."""
        while chunk:
            if self._inner.eof:
                if self._window != _GZIP or self._members == MOST_MEMBERS:
                    raise _damaged()
                self._members += 1
                self._inner = zlib_ng.decompressobj(_GZIP)  # gzip's members follow each other
            yield self._inflate(chunk)
            chunk = self._inner.unconsumed_tail or self._inner.unused_data

    def rest(self) -> bytes:
        """Return what is left at the end of the body."""
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
            self._begun, self._inner = True, zlib_ng.decompressobj(_RAW)  # many send it so
            return self._inflate(chunk)
        self._begun = True
        return piece


def _damaged() -> BadRequest:
    return BadRequest("The body is not what its Content-Encoding says")
