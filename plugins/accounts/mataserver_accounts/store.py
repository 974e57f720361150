"""Users and keys in the database. Every change is announced to the other processes."""

from __future__ import annotations

import hashlib
import secrets
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import sqlalchemy as sa

from mataserver import Conflict, InvalidParams, NotFound
from mataserver_accounts.records import Key, MadeKey, User
from mataserver_accounts.tables import CHANNEL, KEYS, REVOKED, SECRETS, USERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from sqlalchemy.ext.asyncio import AsyncConnection

    from mataserver_accounts.passwords import Passwords
    from mataserver_accounts.records import Role
    from mataserver_database import Database

KEY_PREFIX = "mata_"


@dataclass(frozen=True, slots=True)
class Everything:
    """All that the snapshot is made of: users with their generations, keys by digest, tokens."""

    users: list[tuple[User, int]]
    keys: list[tuple[str, Key]]
    revoked: frozenset[str]


class Accounts:
    """Users and keys. ``clock`` gives Unix seconds."""

    def __init__(
        self, database: Database, passwords: Passwords, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._passwords = passwords
        self._clock = clock

    # users

    async def add_user(
        self,
        name: str,
        password: str,
        role: Role,
        tags: Iterable[str] = (),
        *,
        hashed: bool = False,
    ) -> User:
        """Make a user; with ``hashed``, ``password`` is a hash. Raises ``Conflict``."""
        known = password if hashed else await self._passwords.hash(password)
        user = User(
            id=str(uuid.uuid4()), name=name, role=role, tags=list(tags), created_at=self._clock()
        )
        row = {**_user_row(user), "password": known, "generation": 1}
        try:
            await self._write(sa.insert(USERS).values(**row))
        except sa.exc.IntegrityError:
            raise Conflict(f"There is a user called {name} already") from None
        return user

    async def users(self) -> list[User]:
        """Return every user, by name."""
        async with self._database.read() as connection:
            rows = await connection.execute(sa.select(USERS).order_by(USERS.c.name))
            return [_user(row) for row in rows.mappings()]

    async def user(self, identity: str) -> User:
        """Return a user by id or name. Raises ``NotFound``."""
        async with self._database.read() as connection:
            return _user(await _find_user(connection, identity))

    async def change_user(
        self,
        identity: str,
        *,
        password: str | None = None,
        role: Role | None = None,
        tags: Iterable[str] | None = None,
        disabled: bool | None = None,
    ) -> User:
        """Change what is given. Tokens of before a new password, or of a disabled user, end.

        Raises ``NotFound``, or ``Conflict`` when nobody could administer any more.
        """
        values: dict[str, Any] = {}
        if password is not None:
            values |= {"password": await self._passwords.hash(password)}
        if role is not None:
            values["role"] = role
        if tags is not None:
            values["tags"] = _text(list(tags))
        if disabled is not None:
            values["disabled"] = disabled
        if not values:
            return await self.user(identity)
        if password is not None or disabled:
            values["generation"] = USERS.c.generation + 1
        async with self._database.begin() as connection:
            row = await _find_user(connection, identity, lock=True)
            if (role or row["role"]) != "admin" or disabled:
                await _check_not_last(connection, row)
            await connection.execute(
                sa.update(USERS).where(USERS.c.id == row["id"]).values(**values)
            )
            await self._database.announce(connection, CHANNEL)
        return await self.user(row["id"])

    async def remove_user(self, identity: str) -> User:
        """Remove a user and their keys. Raises ``NotFound``, or ``Conflict`` for the last admin."""
        async with self._database.begin() as connection:
            row = await _find_user(connection, identity, lock=True)
            await _check_not_last(connection, row)
            await connection.execute(sa.delete(USERS).where(USERS.c.id == row["id"]))
            await self._database.announce(connection, CHANNEL)
        return _user(row)

    async def check_password(self, name: str, password: str) -> tuple[User, int] | None:
        """Return the user of a name and a password and their generation, or None; in equal time."""
        async with self._database.read() as connection:
            query = sa.select(USERS).where(USERS.c.name == name)
            row: Any = (await connection.execute(query)).mappings().first()
        known = None if row is None or row["disabled"] else row["password"]
        if not await self._passwords.matches(password, known) or known is None:
            return None
        if self._passwords.outdated(known):
            fresh = await self._passwords.hash(password)
            same = (USERS.c.id == row["id"], USERS.c.password == known)
            await self._write(sa.update(USERS).where(*same).values(password=fresh))
        return _user(row), row["generation"]

    # keys

    async def add_key(
        self,
        name: str,
        scopes: Iterable[str],
        *,
        owner: str | None = None,
        rate: int | None = None,
        expires_at: float | None = None,
    ) -> MadeKey:
        """Make a key and return it with its secret, of which only the digest is kept."""
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
            raise InvalidParams("expires_at: the time is over already")
        row = {**msgspec.structs.asdict(key), "scopes": _text(key.scopes)}
        await self._write(sa.insert(KEYS).values(**row, digest=digest(secret)))
        return MadeKey(key=secret, **msgspec.structs.asdict(key))

    async def keys(self, owner: str | None = None) -> list[Key]:
        """Return every key, or those of a user, oldest first."""
        query = sa.select(KEYS).order_by(KEYS.c.created_at, KEYS.c.id)
        if owner is not None:
            query = query.where(KEYS.c.owner == owner)
        async with self._database.read() as connection:
            return [_key(row) for row in (await connection.execute(query)).mappings()]

    async def key(self, key_id: str) -> Key:
        """Return a key by its id. Raises ``NotFound``."""
        async with self._database.read() as connection:
            query = sa.select(KEYS).where(KEYS.c.id == key_id)
            row = (await connection.execute(query)).mappings().first()
        if row is None:
            raise NotFound("Key not found")
        return _key(row)

    async def revoke_key(self, key_id: str) -> None:
        """Forget a key: it is refused from now on. Raises ``NotFound``."""
        statement = sa.delete(KEYS).where(KEYS.c.id == key_id)
        if not await self._write(statement):
            raise NotFound("Key not found")

    # tokens

    async def revoke_token(self, token_id: str, until: float) -> None:
        """Refuse a token from now until it would have ended by itself."""
        async with self._database.begin() as connection:
            await connection.execute(sa.delete(REVOKED).where(REVOKED.c.until < self._clock()))
            found = await connection.scalar(sa.select(REVOKED.c.id).where(REVOKED.c.id == token_id))
            if found is None:
                await connection.execute(sa.insert(REVOKED).values(id=token_id, until=until))
            await self._database.announce(connection, CHANNEL)

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

    async def everything(self) -> Everything:
        """Return all that tells who asks, as of one moment."""
        async with self._database.read() as connection:
            users = (await connection.execute(sa.select(USERS))).mappings().all()
            keys = (await connection.execute(sa.select(KEYS))).mappings().all()
            revoked = await connection.scalars(sa.select(REVOKED.c.id))
            return Everything(
                [(_user(row), row["generation"]) for row in users],
                [(row["digest"], _key(row)) for row in keys],
                frozenset(revoked),
            )

    async def _write(self, statement: Any) -> int:
        """Execute and announce a change; return how many rows it changed."""
        async with self._database.begin() as connection:
            count = (await connection.execute(statement)).rowcount
            await self._database.announce(connection, CHANNEL)
        return int(count)


def digest(secret: str) -> str:
    """Return what is kept of a key: it is random, so a quick hash serves."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


async def _find_user(connection: AsyncConnection, identity: str, *, lock: bool = False) -> Any:
    query = sa.select(USERS).where(sa.or_(USERS.c.id == identity, USERS.c.name == identity))
    query = query.with_for_update() if lock else query
    row = (await connection.execute(query)).mappings().first()
    if row is None:
        raise NotFound(f"User not found: {identity[:64]}")
    return row


async def _check_not_last(connection: AsyncConnection, row: Mapping[Any, Any]) -> None:
    """Raise ``Conflict`` when no other administrator could log in."""
    others = sa.select(USERS.c.id).where(USERS.c.role == "admin", USERS.c.disabled.is_(False))
    admins = list(await connection.scalars(others.with_for_update()))
    if admins == [row["id"]]:
        raise Conflict(f"{row['name']} is the last administrator")


def _user(row: Any) -> User:
    return User(
        id=row["id"],
        name=row["name"],
        role=row["role"],
        tags=msgspec.json.decode(row["tags"]),
        disabled=bool(row["disabled"]),
        created_at=row["created_at"],
    )


def _user_row(user: User) -> dict[str, Any]:
    return {**msgspec.structs.asdict(user), "tags": _text(user.tags)}


def _key(row: Any) -> Key:
    values = {name: row[name] for name in Key.__struct_fields__}
    return Key(**{**values, "scopes": msgspec.json.decode(row["scopes"])})


def _text(value: Any) -> str:
    return msgspec.json.encode(value).decode()
