"""Work that a cancelled caller does not leave half done."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

if TYPE_CHECKING:
    from pathlib import Path


async def wait_out(work: asyncio.Future[Any]) -> None:
    """Wait until ``work`` is done, also when the caller is cancelled meanwhile, however often.

    For an ``except asyncio.CancelledError`` that raises anew: neither those cancellations nor the
    work's own error is raised.
    """
    while not work.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([work])


async def open_file(path: Path, mode: Literal["wb", "xb"]) -> BinaryIO:
    """Open a file in a thread. A cancelled caller leaves no file open.

    A thread cannot be cancelled: the file that it still opens is closed, and exists for removal by
    the time the cancellation is raised. Raises ``OSError``.
    """
    opening = asyncio.ensure_future(asyncio.to_thread(path.open, mode))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_close)
        await wait_out(opening)
        raise


def _close(opening: asyncio.Future[Any]) -> None:
    with contextlib.suppress(OSError, asyncio.CancelledError):
        opening.result().close()
