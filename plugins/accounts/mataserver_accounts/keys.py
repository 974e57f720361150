"""Keys in the database: of each only a digest is kept."""

from __future__ import annotations

import hashlib
import secrets
import uuid
from typing import TYPE_CHECKING

import msgspec
import sqlalchemy as sa

from mataserver import Conflict, InvalidParams, NotFound
from mataserver_accounts.announced_tables import AnnouncedTables
from mataserver_accounts.records import ID, Key, KeyPage, MadeKey
from mataserver_accounts.rows import key_of, text_of
from mataserver_accounts.tables import KEYS, USERS
from mataserver_database import EVERYTHING, Sorting

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mataserver_database import Connection, Page

KEY_PREFIX = "mata_"
_BY_AGE = Sorting("keys", KEYS.c.created_at, KEYS.c.id)


class Keys(AnnouncedTables):
    """What programs show."""

    async def add_key(
        self,
        name: str,
        scopes: Iterable[str],
        *,
        owner: str | None = None,
        rate: int | None = None,
        expires_at: float | None = None,
        most: int | None = None,
    ) -> MadeKey:
        """Make a key and return it with its secret, of which only the digest is kept.

        Raises ``NotFound`` for an owner that there is not, ``Conflict`` for one who has ``most``
        keys already.
        """
        secret = KEY_PREFIX + secrets.token_urlsafe(32)
        key = Key(
            id=str(uuid.uuid4()),
            name=name,
            owner=owner,
            scopes=sorted(scopes),
            rate=rate,
            created_at=self._clock(),
            expires_at=expires_at,
        )
        if expires_at is not None and expires_at <= key.created_at:
            raise InvalidParams("expires_at: the time has passed already")
        row = {**msgspec.structs.asdict(key), "scopes": text_of(key.scopes)}
        async with self._database.begin() as connection:
            if owner is not None:
                await _check_owner(connection, owner, most)
            await connection.execute(sa.insert(KEYS).values(**row, digest=digest(secret)))
            await self._announce(connection)
        return MadeKey(key=secret, **msgspec.structs.asdict(key))

    async def keys(self, owner: str | None = None, page: Page = EVERYTHING) -> KeyPage:
        """Return a page of the keys, all or a user's, oldest first. Raises ``InvalidParams``."""
        query = sa.select(KEYS)
        if owner is not None:
            query = query.where(KEYS.c.owner == owner)
        rows = await self._page(_BY_AGE, query, page)
        keys = [key_of(row) for row in rows.found]
        return KeyPage(keys=keys, total=rows.total, next_cursor=rows.next_cursor)

    async def key(self, key_id: str) -> Key:
        """Return a key by its id. Raises ``NotFound``."""
        row = None
        if ID.fullmatch(key_id):
            async with self._database.read() as connection:
                query = sa.select(KEYS).where(KEYS.c.id == key_id)
                row = (await connection.execute(query)).mappings().first()
        if row is None:
            raise NotFound("Key not found")
        return key_of(row)

    async def revoke_key(self, key_id: str) -> None:
        """Forget a key: it is refused from now on. Raises ``NotFound``."""
        statement = sa.delete(KEYS).where(KEYS.c.id == key_id)
        if not (ID.fullmatch(key_id) and await self._write(statement)):
            raise NotFound("Key not found")


async def _check_owner(connection: Connection, owner: str, most: int | None) -> None:
    """Check that a user exists and has fewer than ``most`` keys.

    The user is locked until the transaction ends: requests at the same moment would all find the
    last key free, and a user removed meanwhile would be an error of the database.
    """
    user = sa.select(USERS.c.id).where(USERS.c.id == owner).with_for_update()
    if await connection.scalar(user) is None:
        raise NotFound(f"User not found: {owner[:64]}")
    if most is None:
        return
    counting = sa.select(sa.func.count()).where(KEYS.c.owner == owner)
    total = int(await connection.scalar(counting) or 0)
    if total >= most:
        raise Conflict(f"You have {total} keys: revoke some")


def digest(secret: str) -> str:
    """Return what is kept of a key: it is random, so a quick hash serves."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
