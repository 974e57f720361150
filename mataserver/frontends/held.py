"""Ids of what one front-end alone holds: they tell which, or the others are told."""

from __future__ import annotations

import re
import secrets
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

DIGITS = 12
TAG = 4
"""Hex digits of a tag."""
_TAGGED = re.compile(r"[a-z]+[_-]([0-9a-f]{4})[0-9a-f]{8,}")
"""An id that tells its front-end: a word, then the tag before what tells it from others."""


class HeldNames:
    """What this front-end holds: ids with its ``tag``, and ``chosen`` ones, of which others know.

    ``tell`` has them know of those at once. Of a server that has no others both do nothing.
    """

    def __init__(self) -> None:
        self.tag = ""
        # Counted: a camera and a video session may have one name, and one of them ends first.
        self.chosen: Counter[str] = Counter()
        self.tell: Callable[[], Awaitable[None]] = _nobody

    def make(self, prefix: str, digits: int = DIGITS) -> str:
        """Return a new id: a lower-case word that ends in ``_`` or ``-``, and hex digits."""
        count = digits - len(self.tag)
        return f"{prefix}{self.tag}{secrets.token_hex((count + 1) // 2)[:count]}"

    def holds(self, identity: str) -> bool:
        """Whether this front-end holds what has an id, if anybody does."""
        return identity in self.chosen or (self.tag != "" and tag_of(identity) == self.tag)

    async def add(self, identity: str) -> None:
        """Have the others find what has an id that somebody chose; return when they can."""
        self.chosen[identity] += 1
        await self.tell()

    def discard(self, identity: str) -> None:
        """Note that it is held no more. Until the others learn it, they ask us."""
        self.chosen[identity] -= 1
        if self.chosen[identity] <= 0:
            del self.chosen[identity]


def tag_of(identity: str) -> str:
    """Return the tag in an id, empty for one that has none."""
    found = _TAGGED.fullmatch(identity)
    return found[1] if found else ""


async def _nobody() -> None:
    """Tell nobody."""
