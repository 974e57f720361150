"""Work that is completed although its waiter is cancelled.

A driver that is cancelled in mid-statement leaves its connection behind, and with it a transaction
that keeps everybody else out. A handler is cancelled whenever its client leaves.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")

_RUNNING: set[asyncio.Task[Any]] = set()


async def finish(work: Coroutine[Any, Any, T]) -> T:
    """Return what ``work`` gives: it is completed and awaited also when the caller is cancelled."""
    task = asyncio.get_running_loop().create_task(work)
    _RUNNING.add(task)
    task.add_done_callback(_RUNNING.discard)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await _end(task)
        raise


async def finished() -> None:
    """Wait for all that ``finish`` began in this loop."""
    loop = asyncio.get_running_loop()
    mine = [task for task in _RUNNING if task.get_loop() is loop]
    await asyncio.gather(*mine, return_exceptions=True)


async def _end(task: asyncio.Task[Any]) -> None:
    """Wait for a task, also when that is cancelled anew; its error has no recipient then."""
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            continue
    if not task.cancelled():
        task.exception()
