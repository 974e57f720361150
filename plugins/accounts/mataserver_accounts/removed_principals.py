"""Removed principals: removed users and revoked keys, whose ids are never given again."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import sqlalchemy as sa

from mataserver_accounts.tables import KEYS, USERS

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from mataserver_database import Database

_OURS = re.compile(r"(key:)?([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")
"""A user's id, or a standalone key's: the ids of the server's own keys are shorter."""
_AT_ONCE = 1000
"""How many ids a statement names: databases bound the parameters of one."""


async def removed_principals(database: Database, principals: Collection[str]) -> set[str]:
    """Return which of these ids are of removed users or revoked standalone keys.

    What is nobody's of ours is not judged. A user who is disabled is there still. The database is
    asked, not memory: whoever did something that is read there was there before.
    """
    found = [match for each in sorted(principals) if (match := _OURS.fullmatch(each))]
    users = [match[2] for match in found if not match[1]]
    keys = [match[2] for match in found if match[1]]
    known = await _known(database, USERS.c.id, users)
    return (set(users) - known) | {
        f"key:{each}" for each in set(keys) - await _known(database, KEYS.c.id, keys)
    }


async def _known(database: Database, column: sa.Column[str], ids: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for part in (ids[at : at + _AT_ONCE] for at in range(0, len(ids), _AT_ONCE)):
        async with database.read() as connection:
            found.update(await connection.scalars(sa.select(column).where(column.in_(part))))
    return found
