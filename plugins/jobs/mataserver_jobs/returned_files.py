"""What a job's process on a node sends back, until they become the job's output."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
from typing import TYPE_CHECKING

from mataserver import sync
from mataserver_jobs import durable
from mataserver_jobs.file_transfer import NextPiece, Parcel, TransferError, receive_files

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from mataserver import Child
    from mataserver_jobs.file_transfer import Piece

PREFIX = "arriving-"


def sweep(folder: Path) -> None:
    """Remove what attempts of a job have left that broke off. Blocking. For who claimed it now."""
    for left in folder.glob(f"{PREFIX}*"):
        shutil.rmtree(left, ignore_errors=True)


class ReturnedFiles:
    """The files of one attempt: beside the job's output until all are there and sound.

    In a folder of its own: an attempt whose claim is no longer valid may run for a while beside the
    next one, which another server makes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._partial_folder = folder / f"{PREFIX}{secrets.token_hex(8)}"
        self._writer: Generator[int, bytes, None] | None = None
        self._expected_bytes: int | None = None
        self._has_more = True
        self._is_complete = False

    async def take(self, message: Parcel | Piece, process: Child) -> None:
        """Take what a message announces.

        Raises ``TransferError``, ``asyncio.IncompleteReadError`` where the process ends before its
        last byte, and ``OSError``.
        """
        if isinstance(message, Parcel):
            await asyncio.to_thread(self._begin, message)
            return
        if message.size != self._expected_bytes:
            raise TransferError("a piece is not the next one")
        data = await process.output.readexactly(message.size)
        await asyncio.to_thread(self._write, data)
        await process.send(NextPiece())

    def replace_output(self) -> None:
        """Replace the output by the received files. Blocking.

        Raises ``TransferError`` where some are missing.
        """
        if not self._is_complete:
            raise TransferError("its files did not all come")
        output = self._folder / "output"
        shutil.rmtree(output, ignore_errors=True)
        self._partial_folder.rename(output)
        sync(self._folder)

    def discard(self) -> None:
        """Remove the received files. Blocking."""
        shutil.rmtree(self._partial_folder, ignore_errors=True)

    def _begin(self, parcel: Parcel) -> None:
        if self._writer is None:
            self._partial_folder.mkdir()
        elif self._expected_bytes is not None:
            raise TransferError("a part of it did not come")
        self._writer, self._has_more = receive_files(self._partial_folder, parcel), parcel.more
        self._advance(None)

    def _write(self, data: bytes) -> None:
        self._advance(data)

    def _advance(self, data: bytes | None) -> None:
        """Continue writing; store how many bytes follow, or that all have arrived."""
        if self._writer is None:
            raise TransferError("a piece of nothing")
        self._expected_bytes, self._is_complete = None, not self._has_more
        with contextlib.suppress(StopIteration):
            self._expected_bytes = next(self._writer) if data is None else self._writer.send(data)
            self._is_complete = False
        if self._is_complete:
            durable.sync_all(self._partial_folder)
