"""Users in the database."""

from __future__ import annotations

import contextlib
import hashlib
import re
import uuid
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgspec
import sqlalchemy as sa

from mataserver import Conflict, InvalidParams, MataError, NotFound, Unavailable
from mataserver_accounts.announced_tables import AnnouncedTables
from mataserver_accounts.records import ID, User, UserPage
from mataserver_accounts.rows import row_of, text_of, user_of
from mataserver_accounts.tables import USERS
from mataserver_database import EVERYTHING, Connection, Sorting

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mataserver_accounts.records import Role
    from mataserver_database import Page

_IDENTITY = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
"""What an id or a user's name may be: nothing else is looked for."""
_ADMINISTERS = sa.and_(USERS.c.role == "admin", USERS.c.disabled.is_(False))
_BY_NAME = Sorting("users", USERS.c.name)

Check = Callable[[str, Connection], Awaitable[None]]
"""What is called with a user's revision, and the connection that changes the user."""


async def any_revision(_revision: str, _connection: Connection) -> None:
    """Whatever the revision is."""


class Users(AnnouncedTables):
    """Who may log in."""

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
        if ID.fullmatch(name):
            raise InvalidParams("name: it must not look like an id")
        known = password if hashed else await self._passwords.hash(password)
        user = User(
            id=str(uuid.uuid4()), name=name, role=role, tags=list(tags), created_at=self._clock()
        )
        row = {**row_of(user), "password": known, "generation": 1}
        try:
            await self._write(sa.insert(USERS).values(**row))
        except sa.exc.IntegrityError:
            raise Conflict(f"A user called {name} exists already") from None
        return user

    async def bootstrap(self, name: str | None, password_hash: str | None) -> None:
        """Make the first administrator, where both are given and there is no administrator yet.

        Raises ``MataError`` for one without the other, or a hash that none can be checked with.
        """
        if name is None and password_hash is None:
            return
        if name is None or password_hash is None:
            raise MataError("API_USERNAME and API_PASSWORD_HASH go together: set both or neither")
        if not self._passwords.is_usable(password_hash):
            raise MataError("API_PASSWORD_HASH: neither a SHA-256 digest in hex nor an argon2 hash")
        async with self._database.read() as connection:
            known = await connection.execute(sa.select(USERS.c.id).where(_ADMINISTERS))
            if known.first() is not None:
                return
        with contextlib.suppress(Conflict):  # another server was quicker
            await self.add_user(name, password_hash, "admin", hashed=True)

    async def users(self, page: Page = EVERYTHING) -> UserPage:
        """Return a page of the users, by name. Raises ``InvalidParams``."""
        rows = await self._page(_BY_NAME, sa.select(USERS), page)
        users = [user_of(row) for row in rows.found]
        return UserPage(users=users, total=rows.total, next_cursor=rows.next_cursor)

    async def user(self, identity: str) -> User:
        """Return a user by id or name. Raises ``NotFound``."""
        async with self._database.read() as connection:
            return user_of(await _find_user(connection, identity))

    async def tagged_user(self, identity: str) -> tuple[User, str]:
        """Return a user, and what is another text after each change. Raises ``NotFound``."""
        async with self._database.read() as connection:
            row = await _find_user(connection, identity)
        return user_of(row), _revision(row)

    async def hold(self, connection: Connection, identity: str) -> str:
        """Lock a user until a transaction ends; return the user's revision.

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
            values["tags"] = text_of(list(tags))
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
        return user_of(row)

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
        if self._passwords.is_outdated(known):
            fresh = await self._passwords.hash(password)
            same = (USERS.c.id == row["id"], USERS.c.password == known)
            with contextlib.suppress(Unavailable):  # the next log-in stores it
                await self._write(sa.update(USERS).where(*same).values(password=fresh))
        return user_of(row), row["generation"]


async def _find_user(connection: Connection, identity: str) -> Any:
    query = sa.select(USERS).where(_named(identity))
    row = (await connection.execute(query)).mappings().first()
    if row is None:
        raise _no_user(identity)
    return row


async def _hold_user(connection: Connection, identity: str, *, ends: bool) -> tuple[Any, bool]:
    """Return a user, locked until a transaction ends. Raises ``NotFound``.

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
    """Return what is true of a user's row. Raises ``NotFound`` for an impossible name."""
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
