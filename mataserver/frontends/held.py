"""Ids of what one front-end alone holds: they tell which, or the others are told."""

from __future__ import annotations

import re
import secrets
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp import web

    Gather = Callable[[web.Request, Any], Awaitable[list[Any]]]

DIGITS = 12
TAG = 4
"""Hex digits of a tag."""
_TAGGED = re.compile(r"[a-z]+[_-]([0-9a-f]{4})[0-9a-f]{8,}")
"""An id that tells its front-end: a word, then the tag before what tells it from others."""


EVERY = "*"
"""What a route's ``held`` says whose handler asks every front-end."""
SESSIONS = "sessions"
"""The kind of what sessions and cameras are; what a plugin holds is of the kind of its name."""


def named(kind: str, identity: str) -> str:
    """Return how front-ends tell each other of an id: two kinds of things may have the same one."""
    return f"{kind}:{identity}"


class HeldNames:
    """What this front-end holds: ids with its ``tag``, and ``chosen`` ones, of which others know.

    Those stand with their kind, as ``named`` gives them. ``tell`` has the others know of them at
    once, and ``gather`` asks them what they answer to the same request. Of a server that has no
    others all do nothing.
    """

    def __init__(self) -> None:
        self.tag = ""
        # Counted: one that ends, and another of its name that begins, meet.
        self.chosen: Counter[str] = Counter()
        self.tell: Callable[[], Awaitable[None]] = _nobody
        self.gather: Gather = _nothing

    def of(self, kind: str) -> NamesOfKind:
        """Return what notes and makes ids of one kind of things."""
        return NamesOfKind(self, kind)

    def make(self, prefix: str, digits: int = DIGITS) -> str:
        """Return a new id: a lower-case word that ends in ``_`` or ``-``, and hex digits."""
        count = digits - len(self.tag)
        return f"{prefix}{self.tag}{secrets.token_hex((count + 1) // 2)[:count]}"

    def holds(self, kind: str, identity: str) -> bool:
        """Whether this front-end holds what has an id, if anybody does."""
        known = named(kind, identity) in self.chosen
        return known or (self.tag != "" and tag_of(identity) == self.tag)


class NamesOfKind:
    """The ids of one kind of things that this front-end holds."""

    def __init__(self, names: HeldNames, kind: str) -> None:
        self._names = names
        self._kind = kind

    def make(self, prefix: str, digits: int = DIGITS) -> str:
        """Return a new id: a lower-case word that ends in ``_`` or ``-``, and hex digits."""
        return self._names.make(prefix, digits)

    async def add(self, identity: str) -> None:
        """Have the others find what has an id that somebody chose; return when they can."""
        self._names.chosen[named(self._kind, identity)] += 1
        await self._names.tell()

    def discard(self, identity: str) -> None:
        """Note that it is held no more. Until the others learn it, they ask us."""
        chosen, name = self._names.chosen, named(self._kind, identity)
        chosen[name] -= 1
        if chosen[name] <= 0:
            del chosen[name]

    async def gather(self, request: web.Request, kind: Any) -> list[Any]:
        """Return what each other front-end answers to the same request, read as ``kind``.

        The route has ``held="*"``. Nothing for what another front-end asks. Raises ``Unavailable``
        where one lives and does not answer.
        """
        return await self._names.gather(request, kind)


def tag_of(identity: str) -> str:
    """Return the tag in an id, empty for one that has none."""
    found = _TAGGED.fullmatch(identity)
    return found[1] if found else ""


async def _nobody() -> None:
    """Tell nobody."""


async def _nothing(_request: web.Request, _kind: Any) -> list[Any]:
    """Ask nobody."""
    return []
