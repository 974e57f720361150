"""Users and keys in the database. Every change is announced to the other processes."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import secrets
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import sqlalchemy as sa

from mataserver import Conflict, InvalidParams, MataError, NotFound
from mataserver_accounts.records import Key, MadeKey, User
from mataserver_accounts.tables import CHANNEL, KEYS, REVOKED, SECRETS, USERS
from mataserver_database import Connection

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mataserver_accounts.passwords import Passwords
    from mataserver_accounts.records import Role
    from mataserver_database import Database

KEY_PREFIX = "mata_"
_IDENTITY = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
"""What an id or a user's name may be: nothing else is looked for."""
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

_ADMINISTERS = sa.and_(USERS.c.role == "admin", USERS.c.disabled.is_(False))
_VERSION = sa.select(SECRETS.c.value).where(SECRETS.c.name == "version")


Check = Callable[[str, Connection], Awaitable[None]]
"""What is called with a user's revision, and the connection that changes the user."""


async def any_revision(_revision: str, _connection: Connection) -> None:
    """Whatever the revision is."""


@dataclass(frozen=True, slots=True)
class Everything:
    """All that the snapshot is made of: users with their generations, keys by digest, tokens.

    ``version`` is another one after each change, or None before it is kept.
    """

    version: str | None
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
        """Make a user; with ``hashed``, ``password`` is a hash. Raises ``Conflict``.

        Raises ``InvalidParams`` for a name that could be taken for an id.
        """
        if _ID.fullmatch(name):
            raise InvalidParams("name: it must not look like an id")
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

    async def bootstrap(self, name: str | None, password_hash: str | None) -> None:
        """Make the first administrator, where both are given and nobody can administer yet.

        Raises ``MataError`` for one without the other, or a hash that none can be checked with.
        """
        if name is None and password_hash is None:
            return
        if name is None or password_hash is None:
            raise MataError("API_USERNAME and API_PASSWORD_HASH go together: set both or neither")
        if not self._passwords.usable(password_hash):
            raise MataError("API_PASSWORD_HASH: neither a SHA-256 digest in hex nor an argon2 hash")
        async with self._database.read() as connection:
            known = await connection.execute(sa.select(USERS.c.id).where(_ADMINISTERS))
            if known.first() is not None:
                return
        with contextlib.suppress(Conflict):  # another server was quicker
            await self.add_user(name, password_hash, "admin", hashed=True)

    async def users(self, limit: int | None = None, offset: int = 0) -> tuple[list[User], int]:
        """Return users by name, at most ``limit`` behind ``offset``, and how many there are."""
        query = sa.select(USERS).order_by(USERS.c.name)
        rows, total = await self._part(query, limit, offset)
        return [_user(row) for row in rows], total

    async def user(self, identity: str) -> User:
        """Return a user by id or name. Raises ``NotFound``."""
        async with self._database.read() as connection:
            return _user(await _find_user(connection, identity))

    async def revision(self, identity: str) -> str:
        """Return what is another text after each change of a user. Raises ``NotFound``."""
        async with self._database.read() as connection:
            return _revision(await _find_user(connection, identity))

    async def hold(self, connection: Connection, identity: str) -> str:
        """Have nobody else change a user until a transaction ends; return the user's revision.

        Raises ``NotFound``.
        """
        row, _ = await _hold_user(connection, identity, ends=False)
        return _revision(row)

    async def change_user(
        self,
        identity: str,
        *,
        password: str | None = None,
        role: Role | None = None,
        tags: Iterable[str] | None = None,
        disabled: bool | None = None,
        check: Check = any_revision,
    ) -> User:
        """Change what is given. Tokens of before a new password, or of a disabled user, end.

        ``check`` is called with the user's revision, which nobody changes meanwhile, and the
        connection that changes it. Raises what it raises, ``NotFound``, or ``Conflict`` when
        nobody could administer any more.
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
        if password is not None or disabled:
            values["generation"] = USERS.c.generation + 1
        demoted = disabled or role not in {None, "admin"}
        async with self._database.begin() as connection:
            row, last = await _hold_user(connection, identity, ends=bool(demoted))
            await check(_revision(row), connection)
            if values:
                _check_not_last(row, last=last)
                change = sa.update(USERS).where(USERS.c.id == row["id"])
                await connection.execute(change.values(**values))
                await self._announce(connection)
        return await self.user(row["id"])

    async def remove_user(self, identity: str, check: Check = any_revision) -> User:
        """Remove a user and their keys. Raises ``NotFound``, or ``Conflict`` for the last admin.

        ``check`` is called as in ``change_user``.
        """
        async with self._database.begin() as connection:
            row, last = await _hold_user(connection, identity, ends=True)
            await check(_revision(row), connection)
            _check_not_last(row, last=last)
            await connection.execute(sa.delete(USERS).where(USERS.c.id == row["id"]))
            await self._announce(connection)
        return _user(row)

    async def check_password(self, name: str, password: str) -> tuple[User, int] | None:
        """Return the user of a name and a password and their generation, or None; in equal time."""
        row: Any = None
        if _IDENTITY.fullmatch(name):
            async with self._database.read() as connection:
                query = sa.select(USERS).where(USERS.c.name == name)
                row = (await connection.execute(query)).mappings().first()
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

    async def keys(
        self, owner: str | None = None, limit: int | None = None, offset: int = 0
    ) -> tuple[list[Key], int]:
        """Return keys, all or a user's, oldest first, and how many there are."""
        query = sa.select(KEYS).order_by(KEYS.c.created_at, KEYS.c.id)
        if owner is not None:
            query = query.where(KEYS.c.owner == owner)
        rows, total = await self._part(query, limit, offset)
        return [_key(row) for row in rows], total

    async def key(self, key_id: str) -> Key:
        """Return a key by its id. Raises ``NotFound``."""
        row = None
        if _ID.fullmatch(key_id):
            async with self._database.read() as connection:
                query = sa.select(KEYS).where(KEYS.c.id == key_id)
                row = (await connection.execute(query)).mappings().first()
        if row is None:
            raise NotFound("Key not found")
        return _key(row)

    async def revoke_key(self, key_id: str) -> None:
        """Forget a key: it is refused from now on. Raises ``NotFound``."""
        statement = sa.delete(KEYS).where(KEYS.c.id == key_id)
        if not (_ID.fullmatch(key_id) and await self._write(statement)):
            raise NotFound("Key not found")

    # tokens

    async def revoke_token(self, token_id: str, until: float) -> None:
        """Refuse a token from now until it would have ended by itself."""
        async with self._database.begin() as connection:
            await connection.execute(sa.delete(REVOKED).where(REVOKED.c.until < self._clock()))
            found = await connection.scalar(sa.select(REVOKED.c.id).where(REVOKED.c.id == token_id))
            if found is None:
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

    # all of it

    async def version(self) -> str | None:
        """Return what is another text after each change; None before it is kept.

        It is kept once ``secret("version")`` was asked for.
        """
        async with self._database.read() as connection:
            return await connection.scalar(_VERSION)

    async def everything(self) -> Everything:
        """Return all that tells who asks, as of one moment."""
        async with self._database.read() as connection:
            version = await connection.scalar(_VERSION)
            users = (await connection.execute(sa.select(USERS))).mappings().all()
            keys = (await connection.execute(sa.select(KEYS))).mappings().all()
            revoked = frozenset(await connection.scalars(sa.select(REVOKED.c.id)))

        def made() -> Everything:
            return Everything(
                version,
                [(_user(row), row["generation"]) for row in users],
                [(row["digest"], _key(row)) for row in keys],
                revoked,
            )

        return await asyncio.to_thread(made)  # a second's work of 100,000 keys

    async def _part(self, query: Any, limit: int | None, offset: int) -> tuple[Any, int]:
        """Return the rows of a part of what a query finds, and how many it finds."""
        counting = sa.select(sa.func.count()).select_from(query.order_by(None).subquery())
        async with self._database.read() as connection:
            rows = await connection.execute(query.limit(limit).offset(offset))
            return rows.mappings().all(), int(await connection.scalar(counting) or 0)

    async def _write(self, statement: Any) -> int:
        """Execute and announce a change; return how many rows it changed."""
        async with self._database.begin() as connection:
            count = (await connection.execute(statement)).rowcount
            await self._announce(connection)
        return int(count)

    async def _announce(self, connection: Connection) -> None:
        """Tell every process, once the transaction is committed, that something changed."""
        fresh = sa.update(SECRETS).where(SECRETS.c.name == "version")
        await connection.execute(fresh.values(value=str(uuid.uuid4())))
        await self._database.announce(connection, CHANNEL)


def digest(secret: str) -> str:
    """Return what is kept of a key: it is random, so a quick hash serves."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


async def _find_user(connection: Connection, identity: str) -> Any:
    query = sa.select(USERS).where(_named(identity))
    row = (await connection.execute(query)).mappings().first()
    if row is None:
        raise _no_user(identity)
    return row


async def _hold_user(connection: Connection, identity: str, *, ends: bool) -> tuple[Any, bool]:
    """Return a user whom nobody else changes until a transaction ends. Raises ``NotFound``.

    ends: whether they may administer no more after it. Then all who administer are held with them,
    in one order, since two that began with a user each would wait for one another for ever; and it
    is told whether nobody else could.
    """
    wanted = sa.or_(_named(identity), _ADMINISTERS) if ends else _named(identity)
    query = sa.select(USERS).where(wanted).order_by(USERS.c.id).with_for_update()
    rows = (await connection.execute(query)).mappings().all()
    row = next((each for each in rows if identity in {each["id"], each["name"]}), None)
    if row is None:
        raise _no_user(identity)
    administers = row["role"] == "admin" and not row["disabled"]
    return row, ends and administers and len(rows) == 1


def _named(identity: str) -> Any:
    """Return what is true of a user's row. Raises ``NotFound`` for what nobody can be called."""
    if not _IDENTITY.fullmatch(identity):
        raise _no_user(identity)
    return sa.or_(USERS.c.id == identity, USERS.c.name == identity)


def _no_user(identity: str) -> NotFound:
    return NotFound(f"User not found: {identity[:64]}")


def _revision(row: Mapping[Any, Any]) -> str:
    """Return what is another text after each change of a user, also of the password."""
    told = [row["role"], row["tags"], bool(row["disabled"]), row["generation"]]
    return hashlib.sha256(msgspec.json.encode(told)).hexdigest()[:16]


def _check_not_last(row: Any, *, last: bool) -> None:
    """Raise ``Conflict`` when no other administrator could log in."""
    if last:
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
