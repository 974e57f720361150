"""The global budget of bytes that clients make the server hold in memory.

These are requests and frames until they are answered, and answers until they are read.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from mataserver.engines.memory import ram_total
from mataserver.errors import TooLarge, Unavailable
from mataserver.principals import ANONYMOUS

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver.config import Settings

HIGH_WATER_BYTES = 65_536
"""Bytes from which a transport counts as full (asyncio's high-water mark); below this, writers do
not wait for the client."""

THREAD_DECODE_BYTES = 1_000_000
"""Bytes above which a body is decoded in a thread."""

MEMORY_PARTS = 4
"""Requests alone are to take at most this fraction of the memory: models need the rest."""

_MOST = 512_000_000

_NOBODY = frozenset({None, ANONYMOUS.id})

T = TypeVar("T")


def inflight_limit(settings: Settings) -> int:
    """Return how many bytes of all requests together may be in memory.

    Unless it is set, it depends on the machine: a small one is not to be filled by clients.
    """
    if settings.max_inflight_mb:
        return round(settings.max_inflight_mb * 1e6)
    return max(settings.max_body, min(_MOST, ram_total() // MEMORY_PARTS))


class Budget:
    """``taken`` of ``limit`` bytes are in flight.

    Below a ``share`` of 1, ``of_owner`` are those of each caller with a key, who may have so much
    of the limit: ``fair`` bytes, or one body or frame of any size that is permitted. Else ``fair``
    is None, and nothing is counted by caller.
    """

    def __init__(self, limit: float, share: float = 1.0) -> None:
        self.limit = limit
        self.fair = limit * share if share < 1.0 else None
        self.taken = 0
        self.of_owner: dict[str, int] = {}
        self._decoding = asyncio.Lock()

    def require(self, count: int, owner: str = "", held: int = 0) -> None:
        """Raise ``Unavailable`` if there is no room for ``count`` bytes; reserves nothing.

        ``held`` bytes of the owner are of the same body. One without others always has its turn:
        a body above the share would else be refused for good.
        """
        if self.taken + count > self.limit:
            raise Unavailable("Too many request bytes are in flight", retry_after=1)
        if not owner or self.fair is None:
            return
        total = self.of_owner.get(owner, 0)
        if total > held and total + count > self.fair:
            raise Unavailable("Too many request bytes of one caller are in flight", retry_after=1)

    def require_room(self, size: int) -> None:
        """Raise ``Unavailable`` if there is no room for an answer, in case it is not read."""
        if size > HIGH_WATER_BYTES:
            self.require(size)

    async def decode(self, data: bytes, decode: Callable[[bytes], T]) -> T:
        """Return ``decode(data)``; for a large body in a thread, one at a time.

        The decoded objects are about as large as the body, and are counted while both exist.
        """
        if len(data) <= THREAD_DECODE_BYTES:
            return decode(data)
        async with self._decoding:
            self.taken += len(data)
            try:
                return await asyncio.to_thread(decode, data)
            finally:
                self.taken -= len(data)


class BudgetShare:
    """The bytes of the budget held by one request, frame or answer.

    ``owner`` is the id of the caller's principal; None, or that of callers without keys, has no
    limit of its own.
    """

    __slots__ = ("_budget", "_owner", "taken")

    def __init__(self, budget: Budget, owner: str | None = None) -> None:
        self._budget = budget
        self._owner = "" if budget.fair is None or owner in _NOBODY else owner or ""
        self.taken = 0

    def take(self, count: int) -> None:
        """Reserve ``count`` more bytes. Raises ``Unavailable`` if the budget is exhausted."""
        self.check(count)
        self.hold(count)

    def hold(self, count: int) -> None:
        """Count ``count`` bytes that are already in memory, even beyond the limit."""
        self.taken += count
        self._budget.taken += count
        if self._owner:
            self._note(count)

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
        self._budget.require(count, self._owner, self.taken)

    def give_back(self) -> None:
        """Release everything reserved."""
        self._budget.taken -= self.taken
        if self._owner:
            self._note(-self.taken)
        self.taken = 0

    def _note(self, count: int) -> None:
        """Count bytes of the owner, who is forgotten without any."""
        held = self._budget.of_owner
        left = held.pop(self._owner, 0) + count
        if left:
            held[self._owner] = left
