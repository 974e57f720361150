"""Work that is completed although its waiter is cancelled.

A driver that is cancelled in mid-statement leaves its connection behind, and with it a transaction
that keeps everybody else out. A handler is cancelled whenever its client leaves.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from mataserver import wait_out

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
        await wait_out(task)
        raise


async def finished() -> None:
    """Wait for all that ``finish`` began in this loop."""
    loop = asyncio.get_running_loop()
    mine = [task for task in _RUNNING if task.get_loop() is loop]
    await asyncio.gather(*mine, return_exceptions=True)
