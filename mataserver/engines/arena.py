"""Shared memory between the server and one worker process: images in, results out, no socket.

It is a memfd: it has no name, so nothing is left behind by a kill, and its pages are reserved when
it is made, so that a machine short of memory refuses it then and does not kill a writer later.
What does not fit travels over the socket.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mataserver.engines.wire import Part

REQUESTS = 4 << 20
ANSWERS = 4 << 20
_HEAD = 64
_ALIGN = 64
SIZE = _HEAD + REQUESTS + ANSWERS


def create() -> int | None:
    """Return the descriptor of new shared memory, or None where the system has none to give."""
    try:
        descriptor = os.memfd_create("mataserver", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError:
        return None
    try:
        os.posix_fallocate(descriptor, 0, SIZE)
        # A worker that shrank it would kill the server at its next look.
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


@dataclass(slots=True, eq=False)
class Block:
    """Reserved bytes of the requests' half."""

    begin: int
    end: int
    free: bool = False


class Outgoing:
    """The server's end: places requests, reads answers."""

    def __init__(self, descriptor: int) -> None:
        self._map = mmap.mmap(descriptor, SIZE)
        self._view = memoryview(self._map)
        self._read = self._view[:8].cast("Q")
        self._blocks: deque[Block] = deque()

    def place(self, data: Part) -> Block | None:
        """Copy ``data`` in and return its block, or None when there is no room."""
        size = -(-len(data) // _ALIGN) * _ALIGN
        begin = self._room(size)
        if begin is None:
            return None
        block = Block(begin, begin + size)
        self._blocks.append(block)
        at = _HEAD + begin
        self._view[at : at + len(data)] = data
        return block

    def free(self, block: Block) -> None:
        """Give a block back, in whatever order."""
        block.free = True
        while self._blocks and self._blocks[0].free:
            self._blocks.popleft()

    def take(self, place: int, size: int) -> bytes:
        """Return a copy of a part of an answer."""
        at = _HEAD + REQUESTS + place
        return bytes(self._view[at : at + size])

    def taken(self, written: int) -> None:
        """Tell the worker that every answer up to ``written`` has been read."""
        self._read[0] = written

    def close(self) -> None:
        """Give the memory back."""
        self._read.release()
        self._view.release()
        self._map.close()

    def _room(self, size: int) -> int | None:
        """Return where ``size`` bytes fit behind the newest block, before the oldest one."""
        if not self._blocks:
            return 0 if size <= REQUESTS else None
        oldest, newest = self._blocks[0].begin, self._blocks[-1].end
        if newest > oldest:
            if newest + size <= REQUESTS:
                return newest
            return 0 if size < oldest else None
        return newest if newest + size < oldest else None


class Incoming:
    """The worker's end: reads requests where they lie, places answers."""

    def __init__(self, descriptor: int) -> None:
        self._view = memoryview(mmap.mmap(descriptor, SIZE))
        self._read = self._view[:8].cast("Q")
        self._written = 0

    @property
    def written(self) -> int:
        """The count of bytes placed so far, gaps at the end of the ring included."""
        return self._written

    def look(self, place: int, size: int) -> memoryview:
        """Return a request's bytes where they lie; they stay until it is answered."""
        at = _HEAD + place
        return self._view[at : at + size]

    def place(self, pieces: Sequence[Part]) -> int | None:
        """Copy ``pieces`` in, one after the other; return their place, None without the room."""
        size = -(-sum(map(len, pieces)) // _ALIGN) * _ALIGN
        at = self._written % ANSWERS
        gap = ANSWERS - at if at + size > ANSWERS else 0
        if self._written + gap + size - self._read[0] > ANSWERS:
            return None
        self._written += gap
        at = self._written % ANSWERS
        self._written += size
        begin = _HEAD + REQUESTS + at
        for piece in pieces:
            self._view[begin : begin + len(piece)] = piece
            begin += len(piece)
        return at
