"""Whose video sessions a request means: each caller chooses the ids of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping

    Key = tuple[str, str]

Value = TypeVar("Value")


class Caller(NamedTuple):
    """The id of a request's principal, and whether it may see the sessions of others."""

    id: str = ""
    sees_all: bool = False

    def may_see(self, owner: str) -> bool:
        """Whether it may see the sessions of an owner."""
        return self.sees_all or owner == self.id

    def find(self, found: Mapping[Key, Value], name: str) -> list[Value]:
        """Return what has a name: the caller's own, else every other's that it may see.

        The keys are an owner's id and a name.
        """
        own = found.get((self.id, name))
        if own is not None or not self.sees_all:
            return [] if own is None else [own]
        return [value for (_, its_name), value in found.items() if its_name == name]
