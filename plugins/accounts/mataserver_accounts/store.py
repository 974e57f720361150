"""Accounts in the database: users, keys, tokens that are revoked, and secrets."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from mataserver_accounts.keys import Keys
from mataserver_accounts.rows import key_of, user_of
from mataserver_accounts.tables import KEYS, REVOKED, SECRETS, USERS
from mataserver_accounts.users import Users

if TYPE_CHECKING:
    from mataserver_accounts.records import Key, User

_KEEP_SECONDS = 86_400.0
"""How long a revoked token is remembered after its end: the clock may be wrong, and set back."""
_VERSION = sa.select(SECRETS.c.value).where(SECRETS.c.name == "version")


@dataclass(frozen=True, slots=True)
class AccountData:
    """All that the snapshot is made of: users with their generations, keys by digest, tokens.

    ``version`` is another one after each change, or None before it is kept.
    """

    version: str | None
    users: list[tuple[User, int]]
    keys: list[tuple[str, Key]]
    revoked: frozenset[str]


class Accounts(Users, Keys):
    """All of it. Every change is announced to the other processes."""

    async def revoke_token(self, token_id: str, until: float) -> None:
        """Refuse a token from now until it would have ended by itself."""
        with contextlib.suppress(sa.exc.IntegrityError):  # another request has revoked it just now
            async with self._database.begin() as connection:
                old = REVOKED.c.until < self._clock() - _KEEP_SECONDS
                await connection.execute(sa.delete(REVOKED).where(old))
                known = sa.select(REVOKED.c.id).where(REVOKED.c.id == token_id)
                if await connection.scalar(known) is None:
                    await connection.execute(sa.insert(REVOKED).values(id=token_id, until=until))
                await self._announce(connection)

    async def secret(self, name: str) -> str:
        """Return a secret of the database, made when it is first asked for."""
        query = sa.select(SECRETS.c.value).where(SECRETS.c.name == name)
        async with self._database.read() as connection:
            known = await connection.scalar(query)
        if known is not None:
            return str(known)
        made = secrets.token_urlsafe(48)
        try:
            await self._write(sa.insert(SECRETS).values(name=name, value=made))
        except sa.exc.IntegrityError:  # another server made it first
            return await self.secret(name)
        return made

    async def version(self) -> str | None:
        """Return what is another text after each change; None before it is kept.

        It is kept once ``secret("version")`` was asked for.
        """
        async with self._database.read() as connection:
            return await connection.scalar(_VERSION)

    async def read_all(self) -> AccountData:
        """Return all data that authentication needs, as of one moment."""
        async with self._database.read() as connection:
            version = await connection.scalar(_VERSION)
            users = (await connection.execute(sa.select(USERS))).mappings().all()
            keys = (await connection.execute(sa.select(KEYS))).mappings().all()
            revoked = frozenset(await connection.scalars(sa.select(REVOKED.c.id)))

        def made() -> AccountData:
            return AccountData(
                version,
                [(user_of(row), row["generation"]) for row in users],
                [(row["digest"], key_of(row)) for row in keys],
                revoked,
            )

        return await asyncio.to_thread(made)  # a second's work of 100,000 keys
