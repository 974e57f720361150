"""The bytes that clients have the server hold in memory: one budget for all of them.

Requests and frames until they are answered, and answers that wait to be read.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from mataserver.errors import TooLarge, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

LARGE = 1_000_000
"""Bytes above which a body is decoded beside the event loop."""

T = TypeVar("T")


class Budget:
    """``taken`` of ``limit`` bytes are in flight."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.taken = 0
        self._decoding = asyncio.Lock()

    def require(self, count: int) -> None:
        """Raise ``Unavailable`` when there is no room for ``count`` bytes; takes none of them."""
        if self.taken + count > self.limit:
            raise Unavailable("Too many request bytes are in flight", retry_after=1)

    async def decode(self, data: bytes, decode: Callable[[bytes], T]) -> T:
        """Return ``decode(data)``; of a large body beside the event loop, one body at a time.

        What that makes is about as large as the body, and counts as such as long as both are there.
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
    """What one request, frame or answer holds of the budget."""

    __slots__ = ("_budget", "taken")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.taken = 0

    def take(self, count: int) -> None:
        """Take ``count`` bytes more. Raises ``Unavailable`` when the budget has not as many."""
        self._budget.require(count)
        self.hold(count)

    def hold(self, count: int) -> None:
        """Take ``count`` bytes that are in memory already, whether there is room or not."""
        self.taken += count
        self._budget.taken += count

    def cover(self, size: int, limit: int) -> None:
        """Take what is missing to ``size`` bytes. Raises ``TooLarge`` for more than ``limit``."""
        if size > limit:
            raise TooLarge(f"The body is over the limit of {limit} bytes")
        if size > self.taken:
            self.take(size - self.taken)

    def check(self, count: int) -> None:
        """Raise ``Unavailable`` when there is no room for ``count`` bytes; takes none of them.

        What was only announced takes no room: who sends nothing shuts out nobody.
        """
        self._budget.require(count)

    def give_back(self) -> None:
        """Give all of it back."""
        self._budget.taken -= self.taken
        self.taken = 0
