"""Ids of resources that a single front-end holds: tagged, or announced to the others."""

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
TAG_DIGITS = 4
"""Number of hex digits of a tag."""
_TAGGED = re.compile(r"[a-z]+[_-]([0-9a-f]{4})[0-9a-f]{8,}")
"""A tagged id: a word, the tag, and random digits."""


EVERY_FRONTEND = "*"
"""Value of a route's ``held`` if its handler gathers from every front-end."""
SESSIONS_KIND = "sessions"
"""The kind of sessions and cameras; resources of a plugin are of the kind of its name."""


def qualified_id(kind: str, identity: str, owner: str = "") -> str:
    """Return an id qualified by its kind: ids are unique only within a kind.

    With ``owner`` it is that of this principal's resource, where each chooses ids of its own. No
    kind begins with a line feed.
    """
    return f"\n{owner}\n{kind}:{identity}" if owner else f"{kind}:{identity}"


class ResourceIds:
    """The resources this front-end holds: ids with its ``tag``, and ``announced`` ones.

    Announced ids were chosen by clients; they are stored as ``qualified_id`` returns them, those
    of ``of_owners`` with and without the owner.
    ``announce`` sends them to the other front-ends without delay, and ``gather`` relays a request
    to all others. On a server without others both do nothing.
    """

    def __init__(self) -> None:
        self.tag = ""
        # Counted: a resource may end while another with the same name begins.
        self.announced: Counter[str] = Counter()
        self.of_owners: Counter[str] = Counter()
        self.announce: Callable[[], Awaitable[None]] = _announce_nothing
        self.gather: Gather = _gather_nothing

    def of_kind(self, kind: str) -> ResourceIdsOfKind:
        """Return the registry of ids of one kind."""
        return ResourceIdsOfKind(self, kind)

    def make(self, prefix: str, digits: int = DIGITS) -> str:
        """Return a new id: a lower-case prefix that ends in ``_`` or ``-``, and hex digits."""
        count = digits - len(self.tag)
        return f"{prefix}{self.tag}{secrets.token_hex((count + 1) // 2)[:count]}"

    def holds(self, kind: str, identity: str, owner: str = "") -> bool:
        """Whether an id would be held by this front-end: by its tag, or as announced.

        An id that owners choose for themselves must be announced as that of ``owner``.
        """
        name = qualified_id(kind, identity)
        if name in self.of_owners:
            name = qualified_id(kind, identity, owner)
        return name in self.announced or (self.tag != "" and tag_of(identity) == self.tag)


class ResourceIdsOfKind:
    """The ids of one kind of resource that this front-end holds."""

    def __init__(self, names: ResourceIds, kind: str) -> None:
        self._names = names
        self._kind = kind

    def make(self, prefix: str, digits: int = DIGITS) -> str:
        """Return a new id: a lower-case prefix that ends in ``_`` or ``-``, and hex digits."""
        return self._names.make(prefix, digits)

    async def add(self, identity: str, owner: str = "") -> None:
        """Announce a chosen id to the other front-ends; return once they can find it.

        With ``owner`` it is announced as that principal's, too.
        """
        names = self._names
        names.announced[name := qualified_id(self._kind, identity)] += 1
        if owner:
            names.of_owners[name] += 1
            names.announced[qualified_id(self._kind, identity, owner)] += 1
        await names.announce()

    def discard(self, identity: str, owner: str = "") -> None:
        """Withdraw an id. Until the others notice, they still relay requests here."""
        names, name = self._names, qualified_id(self._kind, identity)
        _decrease(names.announced, name)
        if owner:
            _decrease(names.of_owners, name)
            _decrease(names.announced, qualified_id(self._kind, identity, owner))

    async def gather(self, request: web.Request, kind: Any) -> list[Any]:
        """Return every other front-end's answer to the same request, decoded as ``kind``.

        The route has ``held="*"``. Returns nothing for a request of another front-end. Raises
        ``Unavailable`` if a live one does not answer.
        """
        return await self._names.gather(request, kind)


def _decrease(counts: Counter[str], name: str) -> None:
    counts[name] -= 1
    if counts[name] <= 0:
        del counts[name]


def tag_of(identity: str) -> str:
    """Return the tag of an id, empty if it has none."""
    found = _TAGGED.fullmatch(identity)
    return found[1] if found else ""


async def _announce_nothing() -> None:
    """Announce nothing: there are no others."""


async def _gather_nothing(_request: web.Request, _kind: Any) -> list[Any]:
    """Gather nothing: there are no others."""
    return []
