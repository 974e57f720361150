"""Turns to read a message: its size is known only when it is here and has taken its memory.

So a few are read at a time, and of one caller half of these: whoever sends nothing, and so keeps
its turns for the whole time that a message may take, shuts out nobody else.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Turns:
    """``count`` turns, at least one."""

    def __init__(self, count: int) -> None:
        self._all = asyncio.Semaphore(max(1, count))
        self._each = max(1, count // 2)
        self._own: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    @contextlib.asynccontextmanager
    async def taken(self, who: str) -> AsyncIterator[None]:
        """Hold a turn, after waiting for it."""
        own = self._own.get(who)
        if own is None:
            own = self._own[who] = asyncio.Semaphore(self._each)
        async with own, self._all:
            yield
