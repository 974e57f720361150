"""Rows of the tables of accounts, as records."""

from __future__ import annotations

from typing import Any

import msgspec

from mataserver_accounts.records import Key, User


def user_of(row: Any) -> User:
    """Return the user of a row."""
    return User(
        id=row["id"],
        name=row["name"],
        role=row["role"],
        tags=msgspec.json.decode(row["tags"]),
        disabled=bool(row["disabled"]),
        created_at=row["created_at"],
    )


def row_of(user: User) -> dict[str, Any]:
    """Return what is kept of a user, but for the password."""
    return {**msgspec.structs.asdict(user), "tags": text_of(user.tags)}


def key_of(row: Any) -> Key:
    """Return the key of a row."""
    values = {name: row[name] for name in Key.__struct_fields__}
    return Key(**{**values, "scopes": msgspec.json.decode(row["scopes"])})


def text_of(value: Any) -> str:
    """Return a value as it is kept."""
    return msgspec.json.encode(value).decode()
