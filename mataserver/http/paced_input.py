"""Input that takes long to parse for its size, such as chunks or WebSocket frames of one byte.

One read may have 256 KB of it: tens of thousands of pieces, which would delay everybody else for
seconds. So it is processed in slices, one in each iteration of the event loop, and nothing more is
read meanwhile.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

SLICE_BYTES = 4_096
"""Bytes of lines that are processed at a time."""
_BYTES_PER_LINE = 64
"""Input with shorter lines on average takes long: chunks of a few bytes each. Heads have longer
ones, and pictures as good as none."""


def first_slice(data: bytes) -> int:
    """Return how many bytes of HTTP to process at a time: all, unless it takes long."""
    if len(data) <= SLICE_BYTES or data.count(b"\n") * _BYTES_PER_LINE <= len(data):
        return len(data)
    return SLICE_BYTES


class PacedInput:
    """The rest of what a connection has read.

    ``process`` is called with it in the next iteration of the event loop, and may keep the end of
    it again; ``pause`` stops reading, and ``resume`` continues once nothing is left.
    """

    __slots__ = ("_handle", "_pause", "_process", "_rest", "_resume")

    def __init__(
        self,
        process: Callable[[bytes], None],
        pause: Callable[[], None],
        resume: Callable[[], None],
    ) -> None:
        self._process, self._pause, self._resume = process, pause, resume
        self._rest = b""
        self._handle: asyncio.Handle | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether something waits to be processed: what is read now comes after it."""
        return self._handle is not None

    def append(self, data: bytes) -> None:
        """Keep what was read after all."""
        self._rest += data
        self._pause()

    def keep(self, rest: bytes) -> None:
        """Keep the rest of what is being processed."""
        self._rest = rest + self._rest
        if self._handle is None:
            self._handle = asyncio.get_running_loop().call_soon(self._continue)
            self._pause()

    def end(self) -> None:
        """Drop the rest: the connection is closed."""
        self._rest = b""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _continue(self) -> None:
        rest, self._rest, self._handle = self._rest, b"", None
        self._process(rest)
        if self._handle is None:
            self._resume()
