"""HTTP/1.1 as servers answer it (RFC 9112): heads and bodies out of bytes, strictly.

Ambiguous messages are refused, so that no reader takes a part of one answer for another.
"""

from __future__ import annotations

import functools
import re
from typing import NamedTuple

HEAD_END = b"\r\n\r\n"
MAX_HEAD_BYTES = 1 << 16
"""Bytes of a head, and of a chunk's line with its extensions."""
MAX_HEADS = 17
"""Heads of one answer: those of 1xx, and its own."""
CACHED_HEAD_BYTES = 512
"""Bytes up to which a parsed head is cached."""
_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: [^\r\n\0]*)?")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*?)[ \t]*")
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n\0]*)?")
_SIZE_LINE = re.compile(_SIZE.pattern + rb"\r\n")
_TINY = range(1, 16)
"""Bytes of chunks that are read many at a time. A server at fault that sends a byte in each would
else take the event loop for a tenth of a second at each reading.
"""
_TINY_RUN = re.compile(
    rb"(?:%b)++" % b"|".join(rb"(?i:%x)\r\n[\s\S]{%d}\r\n" % (n, n) for n in _TINY)
)
_TINY_CHUNK = re.compile(
    rb"[1-9A-Fa-f]\r\n(%b)\r\n" % b"|".join(rb"(?<=(?i:%x)\r\n)[\s\S]{%d}" % (n, n) for n in _TINY)
)
_BODYLESS = frozenset({204, 304})

Fields = tuple[tuple[bytes, bytes], ...]


class MalformedError(ValueError):
    """Invalid HTTP, or HTTP that could be read in two ways."""


class Head(NamedTuple):
    """The head of an answer.

    length: of the body; None where it is in chunks or ends with the connection.
    keep:   whether the connection may be used again.
    """

    status: int
    fields: Fields
    length: int | None
    chunked: bool
    keep_alive: bool


def read_head(data: bytes) -> Head:
    """Read the head of an answer, without the empty line. Raises ``MalformedError``.

    Short heads are cached: servers repeat them.
    """
    return _cached_head(data) if len(data) <= CACHED_HEAD_BYTES else _parse_head(data)


def _parse_head(data: bytes) -> Head:
    first, *lines = data.split(b"\r\n")
    status_line = _STATUS.fullmatch(first)
    if status_line is None:
        raise MalformedError("no status line")
    fields: list[tuple[bytes, bytes]] = []
    length: bytes | None = None
    coding: bytes | None = None
    connection = b""
    for line in lines:
        field = _FIELD.fullmatch(line)
        if field is None:
            raise MalformedError("no header field")
        name, value = field[1], field[2]
        fields.append((name, value))
        lower = name.lower()
        if lower == b"content-length":
            if length not in {None, value}:
                raise MalformedError("two lengths")
            length = value
        elif lower == b"transfer-encoding":
            coding = value if coding is None else coding + b"," + value
        elif lower == b"connection":
            connection += b"," + value.lower()
    status = int(status_line[2])
    size, chunked = _framing(status, length, coding)
    keep_alive = b"close" not in connection and (
        status_line[1] == b"1" or b"keep-alive" in connection
    )
    return Head(status, tuple(fields), size, chunked, keep_alive and (chunked or size is not None))


_cached_head = functools.lru_cache(512)(_parse_head)


def _framing(status: int, length: bytes | None, coding: bytes | None) -> tuple[int | None, bool]:
    """Return the body's length, and whether it is in chunks. Raises ``MalformedError``."""
    if coding is not None:
        if length is not None or coding.lower() != b"chunked":
            raise MalformedError("a transfer coding beside a length, or an unknown one")
        return None, True
    if length is not None and not (length.isdigit() and len(length) < 19):
        raise MalformedError("no length")
    if status in _BODYLESS:
        return 0, False
    return None if length is None else int(length), False


class ChunkedDecoder:
    """Reads a body in chunks. ``ended`` once its last chunk and its trailer were seen."""

    def __init__(self) -> None:
        self.ended = False
        self.rest = b""
        self._remaining = 0
        self._line = b""
        self._trailer = False
        self._trailer_left = MAX_HEAD_BYTES

    def feed(self, data: bytes) -> bytes:
        """Return what some bytes hold of the body; ``rest`` is what follows its end.

        Raises ``MalformedError``.
        """
        found: list[bytes] = []
        data = self._line + data if self._line else data
        self._line, at, size = b"", 0, len(data)
        while at < size and not self.ended:
            if self._remaining > 2:
                piece = data[at : at + self._remaining - 2]
                found.append(piece)
                at += len(piece)
                self._remaining -= len(piece)
                continue
            if not self._remaining and not self._trailer:
                at = _whole_chunks(data, at, found)
            end = data.find(b"\r\n", at)
            if end < 0:
                if size - at > MAX_HEAD_BYTES:
                    raise MalformedError("a line of a chunk is too long")
                self._line = data[at:]
                break
            self._feed_line(data[at:end])
            at = end + 2
        if self.ended:
            self.rest = data[at:]
        return b"".join(found)

    def _feed_line(self, line: bytes) -> None:
        """Take the line before a chunk, the end of one, or one of the trailer."""
        if self._remaining == 2:
            if line:
                raise MalformedError("a chunk is longer than it says")
            self._remaining = 0
        elif self._trailer:
            self.ended = not line
            self._trailer_left -= len(line)
            if self._trailer_left < 0:
                raise MalformedError("a trailer is too long")
        else:
            size = _SIZE.fullmatch(line)
            if size is None:
                raise MalformedError("no size of a chunk")
            count = int(size[1], 16)
            self._trailer = count == 0
            self._remaining = count + 2 if count else 0


def _whole_chunks(data: bytes, at: int, found: list[bytes]) -> int:
    """Add what the chunks hold that begin at a place and are all there; return where they end.

    None is the last, and none is malformed.
    """
    while True:
        run = _TINY_RUN.match(data, at)
        if run is not None:
            found += _TINY_CHUNK.findall(data, at, run.end())
            at = run.end()
        line = _SIZE_LINE.match(data, at)
        if line is None:
            return at
        start = line.end()
        end = start + int(line[1], 16)
        if start == end or data[end : end + 2] != b"\r\n":
            return at
        found.append(data[start:end])
        at = end + 2
