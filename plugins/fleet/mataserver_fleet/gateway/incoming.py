"""An answer as it arrives on a connection: its head, then its body in pieces."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from mataserver_fleet.gateway.http1 import (
    HEAD_END,
    MAX_HEAD_BYTES,
    MAX_HEADS,
    ChunkedDecoder,
    MalformedError,
    read_head,
)

if TYPE_CHECKING:
    import asyncio

    from mataserver_fleet.gateway.http1 import Head

HIGH_WATER_BYTES = 1 << 18
"""Bytes of an answer that may wait for the client before reading pauses."""


class IncomingResponse:
    """A response that is being received. A connection that is ``used`` has carried a request.

    The base class of ``UpstreamConnection``, not a member: a call for each piece would slow down
    every request.
    """

    def __init__(self) -> None:
        self.used = False
        self._transport: asyncio.Transport | None = None
        self._reset()

    def _reset(self) -> None:
        self._head: Head | None = None
        self._heads = 0
        self._raw = b""
        self._pieces: deque[bytes] = deque()
        self._queued = 0
        self._remaining: int | None = None
        self._chunks: ChunkedDecoder | None = None
        self._ended = self._sent = self._paused = False

    @property
    def received_head(self) -> Head | None:
        """Head of the answer, once it has arrived."""
        return self._head

    def received_body(self) -> bytes:
        """Return the body of an answer that has ended."""
        return self._drain() if self._pieces else b""

    @property
    def is_complete(self) -> bool:
        """Whether the whole answer has arrived."""
        return self._ended

    def _feed(self, data: bytes) -> None:
        if self._ended or not self.used:
            raise MalformedError("an answer without a request")
        if self._head is None:
            data = self._feed_head(data)
        if self._head is None or not data:
            return
        if self._chunks is not None:
            if piece := self._chunks.feed(data):
                self._append(piece)
            self._ended = self._chunks.ended
            if self._chunks.rest:
                raise MalformedError("an answer is longer than it says")
        else:
            self._append(data)
            if self._remaining is not None:
                self._remaining -= len(data)
                self._ended = self._remaining == 0
                if self._remaining < 0:
                    raise MalformedError("an answer is longer than it says")

    def _feed_head(self, data: bytes) -> bytes:
        """Take what belongs to the head; return what follows it."""
        raw = self._raw + data if self._raw else data
        head = None
        while head is None or (100 <= head.status < 200 and head.status != 101):
            end = raw.find(HEAD_END, 0, MAX_HEAD_BYTES + len(HEAD_END))
            if end < 0:
                if len(raw) > MAX_HEAD_BYTES:
                    raise MalformedError("a head is too long")
                self._raw = raw
                return b""
            head, raw = read_head(raw[:end]), raw[end + len(HEAD_END) :]
            self._heads += 1
            if self._heads > MAX_HEADS:
                raise MalformedError("too many heads before the answer's")
        self._raw = b""
        self._head, self._remaining = head, head.length
        self._chunks = ChunkedDecoder() if head.chunked else None
        self._ended = head.length == 0
        if self._ended and raw:
            raise MalformedError("an answer is longer than it says")
        return raw

    def _append(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._queued += len(piece)
        if self._queued > HIGH_WATER_BYTES and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def _drain(self) -> bytes:
        """Return the pieces that are here, as one."""
        pieces = self._pieces
        data = pieces.popleft() if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._queued = 0
        return data
