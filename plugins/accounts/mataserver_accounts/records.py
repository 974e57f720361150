"""What is known of a user and of a key. No field holds a secret."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from mataserver import CONTROLS, SCOPES, InvalidParams

if TYPE_CHECKING:
    from collections.abc import Iterable

Role = Literal["admin", "developer", "viewer"]
UserName = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9][a-z0-9._-]{0,63}\Z",
        description="1 to 64 of a-z, 0-9 and . _ -, the first a letter or digit",
    ),
]
_PLAIN = "text without control characters, also those of the writing's direction"
KeyName = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=64,
        pattern=rf"^[^{CONTROLS}]+\Z",
        description=_PLAIN,
    ),
]
Password = Annotated[str, Meta(min_length=1, max_length=1024)]
Tag = Annotated[
    str,
    Meta(
        max_length=64,
        pattern=rf"^[^{CONTROLS}]*\Z",
        description=_PLAIN,
    ),
]
Tags = Annotated[list[Tag], Meta(max_length=64)]
Rate = Annotated[int, Meta(ge=1, le=1_000_000)]
ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""What an id of a user or a key looks like."""


class User(Struct, frozen=True, kw_only=True):
    """A user. ``id`` never changes and is never given again; ``created_at`` in Unix seconds."""

    id: str
    name: str
    role: Role
    tags: list[str] = []
    disabled: bool = False
    created_at: float


class Key(Struct, frozen=True, kw_only=True):
    """A key. ``owner`` is a user's id, ``rate`` the requests a minute, times in Unix seconds."""

    id: str
    name: str
    owner: str | None = None
    scopes: list[str]
    rate: int | None = None
    created_at: float
    expires_at: float | None = None


class MadeKey(Struct, frozen=True, kw_only=True):
    """A new key with its secret, which is shown this once."""

    key: str
    id: str
    name: str
    owner: str | None = None
    scopes: list[str]
    rate: int | None = None
    created_at: float
    expires_at: float | None = None


class UserPage(Struct, kw_only=True):
    """A page of the users, and how many there are; ``next_cursor`` gives the next page."""

    users: list[User]
    total: int
    next_cursor: str | UnsetType = UNSET


class KeyPage(Struct, kw_only=True):
    """A page of the keys, and how many there are; ``next_cursor`` gives the next page."""

    keys: list[Key]
    total: int
    next_cursor: str | UnsetType = UNSET


def check_scopes(scopes: Iterable[str]) -> list[str]:
    """Return scopes, each once and sorted. Raises ``InvalidParams`` for one that there is not."""
    found = sorted(set(scopes))
    for scope in found:
        if scope not in SCOPES:
            raise InvalidParams(f"scopes: there is no {scope!r}; there are {', '.join(SCOPES)}")
    return found
