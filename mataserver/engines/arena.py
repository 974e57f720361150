"""Shared memory between the server and one worker process: images in, results out.

The memory is a memfd: it has no name, so a killed process leaves nothing behind. Its pages are
reserved at creation, so a machine short of memory fails then instead of killing a writer later.
Data that does not fit is sent over the socket.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mataserver.engines.wire import Buffer

REQUEST_BYTES = 8 << 20
"""Room for the pictures in flight: those of 12 megapixels have about 2 MB each, and the decoders
idle while one comes over the socket (docs/performance.md)."""
ANSWER_BYTES = 4 << 20
_HEADER_BYTES = 64
_ALIGN = 64
_READ_COUNTER, _TAKEN_COUNTER = 0, 1
"""What the numbers at the beginning are: the server's mark, and the worker's."""
SIZE = _HEADER_BYTES + REQUEST_BYTES + ANSWER_BYTES


def create() -> int | None:
    """Create shared memory; return its descriptor, or None if the system refuses."""
    try:
        descriptor = os.memfd_create("mataserver", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError:
        return None
    try:
        os.posix_fallocate(descriptor, 0, SIZE)
        # Without seals a worker could shrink the file and crash the server with SIGBUS.
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


@dataclass(slots=True, eq=False)
class Block:
    """A reserved range of bytes in the request half."""

    begin: int
    end: int
    free: bool = False


class ServerArena:
    """The server's side: writes requests, reads answers."""

    def __init__(self, descriptor: int) -> None:
        self._map = mmap.mmap(descriptor, SIZE)
        self._view = memoryview(self._map)
        self._counters = self._view[:16].cast("Q")
        self._blocks: deque[Block] = deque()

    def write(self, data: Buffer) -> Block | None:
        """Copy ``data`` in; return its block, or None if there is no room."""
        size = -(-len(data) // _ALIGN) * _ALIGN
        begin = self._find_space(size)
        if begin is None:
            return None
        block = Block(begin, begin + size)
        self._blocks.append(block)
        at = _HEADER_BYTES + begin
        self._view[at : at + len(data)] = data
        return block

    def free(self, block: Block) -> None:
        """Release a block; blocks may be released in any order."""
        block.free = True
        while self._blocks and self._blocks[0].free:
            self._blocks.popleft()

    def view(self, offset: int, size: int) -> memoryview:
        """Return a view of a part of an answer, valid until it is released."""
        at = _HEADER_BYTES + REQUEST_BYTES + offset
        return self._view[at : at + size]

    def release_up_to(self, written: int) -> None:
        """Let the worker overwrite every answer up to ``written``."""
        self._counters[_READ_COUNTER] = written

    @property
    def last_taken(self) -> int:
        """The last request that the worker took from the socket; readable after its death."""
        return int(self._counters[_TAKEN_COUNTER])

    def close(self) -> None:
        """Unmap the memory, once no view of it is left."""
        self._counters.release()
        self._view.release()
        with contextlib.suppress(BufferError):  # a view is in use: the last one unmaps it
            self._map.close()

    def _find_space(self, size: int) -> int | None:
        """Return an offset for ``size`` bytes after the newest block and before the oldest one."""
        if not self._blocks:
            return 0 if size <= REQUEST_BYTES else None
        oldest, newest = self._blocks[0].begin, self._blocks[-1].end
        if newest > oldest:
            if newest + size <= REQUEST_BYTES:
                return newest
            return 0 if size < oldest else None
        return newest if newest + size < oldest else None


class WorkerArena:
    """The worker's side: reads requests in place, writes answers."""

    def __init__(self, descriptor: int) -> None:
        self._view = memoryview(mmap.mmap(descriptor, SIZE))
        self._counters = self._view[:16].cast("Q")
        self._written = self._last_taken = 0

    @property
    def written(self) -> int:
        """Bytes written so far, including gaps at the end of the ring."""
        return self._written

    def mark_taken(self, request: int) -> None:
        """Note that a request was taken from the socket; their numbers grow."""
        if request > self._last_taken:  # an item of a stream has the number of the stream
            self._last_taken = self._counters[_TAKEN_COUNTER] = request

    def view(self, offset: int, size: int) -> memoryview:
        """Return a view of a request's bytes, valid until the request is answered."""
        at = _HEADER_BYTES + offset
        return self._view[at : at + size]

    def write(self, pieces: Sequence[Buffer]) -> int | None:
        """Copy ``pieces`` in consecutively; return their offset, or None if they do not fit."""
        size = -(-sum(map(len, pieces)) // _ALIGN) * _ALIGN
        at = self._written % ANSWER_BYTES
        gap = ANSWER_BYTES - at if at + size > ANSWER_BYTES else 0
        if self._written + gap + size - self._counters[_READ_COUNTER] > ANSWER_BYTES:
            return None
        self._written += gap
        at = self._written % ANSWER_BYTES
        self._written += size
        begin = _HEADER_BYTES + REQUEST_BYTES + at
        for piece in pieces:
            self._view[begin : begin + len(piece)] = piece
            begin += len(piece)
        return at
