"""Revocations that the database could not take: its disk is full, or it does not answer.

Whoever revokes a key because it was stolen must not have to wait for room on a disk. It is refused
by this server at once, and the revocation is stored as soon as that can be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mataserver import MataError, Unavailable
from mataserver_database import finish

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from mataserver import Principal

    Storing = Callable[[], Coroutine[Any, Any, object]]


class Refusals:
    """The ids of keys, tokens and users that are refused, each with what stores that."""

    def __init__(self) -> None:
        self._storing: dict[str, Storing] = {}

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._storing)

    def add(self, identity: str, storing: Storing) -> None:
        """Refuse a key, a token or a user, until ``drop``."""
        self._storing[identity] = storing

    def drop(self, identities: set[str]) -> None:
        """Refuse some no more: what was read of the database shows that they are revoked."""
        for each in identities:
            self._storing.pop(each, None)

    def cover(self, principal: Principal) -> bool:
        """Whether a principal is refused: the key or token that it showed, or the user."""
        return principal.grant in self._storing or principal.id in self._storing

    async def store(self) -> set[str]:
        """Store what can be; return what is stored, or has been by somebody else."""
        stored = set()
        for identity, storing in list(self._storing.items()):
            try:
                await finish(storing())
            except Unavailable:
                break
            except MataError:  # it is gone, or must stay: the last administrator
                pass
            stored.add(identity)
        return stored
