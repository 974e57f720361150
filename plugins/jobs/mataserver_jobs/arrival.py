"""What a job's process on a node sends back, until it is the job's output."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
from typing import TYPE_CHECKING

from mataserver_jobs.parcel import Damaged, More, Parcel, taking

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from mataserver import Child
    from mataserver_jobs.parcel import Piece

PREFIX = "arriving-"


def sweep(folder: Path) -> None:
    """Remove what attempts of a job have left that broke off. Blocking. For who claimed it now."""
    for left in folder.glob(f"{PREFIX}*"):
        shutil.rmtree(left, ignore_errors=True)


class Arrival:
    """The files of one attempt: beside the job's output until all are there and sound.

    In a folder of its own: an attempt whose claim counts no more may go on for a while beside the
    next one, which another server makes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._place = folder / f"{PREFIX}{secrets.token_hex(8)}"
        self._writing: Generator[int, bytes, None] | None = None
        self._left: int | None = None
        self._more = True
        self._whole = False

    async def take(self, message: Parcel | Piece, process: Child) -> None:
        """Take what a message announces.

        Raises ``Damaged``, ``asyncio.IncompleteReadError`` where the process ends in the midst of
        it, and ``OSError``.
        """
        if isinstance(message, Parcel):
            await asyncio.to_thread(self._begin, message)
            return
        if message.size != self._left:
            raise Damaged("a piece is not the next one")
        data = await process.output.readexactly(message.size)
        await asyncio.to_thread(self._write, data)
        await process.send(More())

    def settle(self) -> None:
        """Put what came in the place of the output. Blocking. Raises ``Damaged`` for a part."""
        if not self._whole:
            raise Damaged("its files did not all come")
        output = self._folder / "output"
        shutil.rmtree(output, ignore_errors=True)
        self._place.rename(output)

    def discard(self) -> None:
        """Remove what came and is no result. Blocking."""
        shutil.rmtree(self._place, ignore_errors=True)

    def _begin(self, parcel: Parcel) -> None:
        if self._writing is None:
            self._place.mkdir()
        elif self._left is not None:
            raise Damaged("a part of it did not come")
        self._writing, self._more = taking(self._place, parcel), parcel.more
        self._step(None)

    def _write(self, data: bytes) -> None:
        self._step(data)

    def _step(self, data: bytes | None) -> None:
        """Go on with writing; note how much comes next, or that all is there."""
        if self._writing is None:
            raise Damaged("a piece of nothing")
        self._left, self._whole = None, not self._more
        with contextlib.suppress(StopIteration):
            self._left = next(self._writing) if data is None else self._writing.send(data)
            self._whole = False
