"""The files of a model as the body of the request that has a Triton load it."""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

_PIECE = 3 << 18
"""Bytes of a file that are encoded at a time: a multiple of 3, so that base64 has no seams."""


class Push:
    """The body of a load, made piece by piece: no more than a piece of a file is in memory.

    The sender must close it: where a connection breaks, the file that is read would stay open.
    """

    def __init__(self, config: Mapping[str, Any], files: Mapping[str, Path]) -> None:
        encoded = msgspec.json.encode(msgspec.json.encode(config).decode())
        self._head = b'{"parameters":{"config":' + encoded
        self._files = [
            (b',"file:' + msgspec.json.encode(name)[1:-1] + b'":"', path)
            for name, path in files.items()
        ]
        self._tail = b"}}"
        self._file: BinaryIO | None = None

    @property
    def size(self) -> int:
        """How many bytes it has."""
        files = (len(key) + 4 * ((path.stat().st_size + 2) // 3) + 1 for key, path in self._files)
        return len(self._head) + sum(files) + len(self._tail)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the pieces."""
        yield self._head
        for key, path in self._files:
            yield key
            with path.open("rb") as self._file:
                while piece := await asyncio.to_thread(self._file.read, _PIECE):
                    yield base64.b64encode(piece)
            yield b'"'
        yield self._tail

    def close(self) -> None:
        """Close the file that is read from."""
        if self._file is not None:
            self._file.close()


def size_of(files: Mapping[str, Path]) -> int:
    """Return the bytes of files."""
    return sum(path.stat().st_size for path in files.values())
