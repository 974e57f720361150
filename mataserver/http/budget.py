"""The global budget of bytes that clients make the server hold in memory.

These are requests and frames until they are answered, and answers until they are read.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from mataserver.errors import TooLarge, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

LARGE = 1_000_000
"""Bytes above which a body is decoded in a thread."""

T = TypeVar("T")


class Budget:
    """``taken`` of ``limit`` bytes are in flight."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.taken = 0
        self._decoding = asyncio.Lock()

    def require(self, count: int) -> None:
        """Raise ``Unavailable`` if there is no room for ``count`` bytes; reserves nothing."""
        if self.taken + count > self.limit:
            raise Unavailable("Too many request bytes are in flight", retry_after=1)

    async def decode(self, data: bytes, decode: Callable[[bytes], T]) -> T:
        """Return ``decode(data)``; for a large body in a thread, one at a time.

        The decoded objects are about as large as the body, and are counted while both exist.
        """
        if len(data) <= LARGE:
            return decode(data)
        async with self._decoding:
            self.taken += len(data)
            try:
                return await asyncio.to_thread(decode, data)
            finally:
                self.taken -= len(data)


class BudgetShare:
    """The bytes of the budget held by one request, frame or answer."""

    __slots__ = ("_budget", "taken")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.taken = 0

    def take(self, count: int) -> None:
        """Reserve ``count`` more bytes. Raises ``Unavailable`` if the budget is exhausted."""
        self._budget.require(count)
        self.hold(count)

    def hold(self, count: int) -> None:
        """Count ``count`` bytes that are already in memory, even beyond the limit."""
        self.taken += count
        self._budget.taken += count

    def cover(self, size: int, limit: int) -> None:
        """Reserve up to ``size`` bytes in total. Raises ``TooLarge`` for more than ``limit``."""
        if size > limit:
            raise TooLarge(f"The body is over the limit of {limit} bytes")
        if size > self.taken:
            self.take(size - self.taken)

    def check(self, count: int) -> None:
        """Raise ``Unavailable`` if there is no room for ``count`` bytes; reserves nothing.

        An announced body reserves nothing: a client that sends nothing must not block others.
        """
        self._budget.require(count)

    def give_back(self) -> None:
        """Release everything reserved."""
        self._budget.taken -= self.taken
        self.taken = 0
