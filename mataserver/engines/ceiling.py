"""Watches how much memory a worker holds, with all the processes that it has started.

The address space cannot be limited in its place: a GPU's driver reserves far more than it uses.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mataserver.engines.memory import family, private_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

PERIOD = 0.5
"""Seconds between two looks."""


async def watch(pid: int, limit: int, over: Callable[[], None]) -> None:
    """Call ``over()`` once the family of ``pid`` holds more than ``limit`` private bytes."""
    while await asyncio.to_thread(_held, pid) <= limit:  # noqa: ASYNC110 - memory has no event
        await asyncio.sleep(PERIOD)
    over()


def _held(pid: int) -> int:
    return sum(map(private_bytes, family(pid)))
