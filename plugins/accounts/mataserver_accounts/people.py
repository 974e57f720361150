"""The users as other plugins see and change them: ``ctx.peer("accounts").people``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mataserver import NotFound
from mataserver_accounts.users import any_revision
from mataserver_database import EVERYTHING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mataserver import Principal
    from mataserver_accounts.directory import Directory
    from mataserver_accounts.login_routes import LoginRoutes, Token
    from mataserver_accounts.records import Role, User, UserPage
    from mataserver_accounts.store import Accounts
    from mataserver_accounts.users import Check
    from mataserver_database import Connection, Page


class People:
    """Users. What is changed here is in force when it returns; no record holds a password."""

    def __init__(self, directory: Directory, log_ins: LoginRoutes) -> None:
        self._directory = directory
        self._log_ins = log_ins

    async def list(self, page: Page = EVERYTHING) -> UserPage:
        """Return a page of the users, by name. Raises ``InvalidParams``."""
        return await self._directory.accounts.users(page)

    async def one(self, identity: str) -> User:
        """Return a user by id or name. Raises ``NotFound``."""
        return await self._directory.accounts.user(identity)

    async def tagged(self, identity: str) -> tuple[User, str]:
        """Return a user, and what is another text after each change. Raises ``NotFound``."""
        return await self._directory.accounts.tagged_user(identity)

    async def hold(self, connection: Connection, identity: str) -> str:
        """Have nobody else change a user until the transaction of ``connection`` ends.

        That is one of ``ctx.peer("database").database``. Returns the revision. Raises ``NotFound``.
        """
        return await self._directory.accounts.hold(connection, identity)

    async def add(self, name: str, password: str, role: Role, tags: Iterable[str] = ()) -> User:
        """Make a user. Raises ``Conflict`` for a name that is taken."""
        work = self._directory.accounts.add_user(name, password, role, tags)
        return await self._directory.change(work)

    async def change(
        self,
        identity: str,
        *,
        password: str | None = None,
        role: Role | None = None,
        tags: Iterable[str] | None = None,
        check: Check | None = None,
    ) -> User:
        """Change what is given. Raises ``NotFound``, or ``Conflict`` for the last administrator.

        ``check`` is called with the revision that is changed and the connection that changes it,
        and may raise: nobody changes the user meanwhile, nor who ``hold``s them.
        """
        work = self._directory.accounts.change_user(
            identity, password=password, role=role, tags=tags, check=check or any_revision
        )
        return await self._directory.change(work)

    async def to_remove(self, identity: str) -> User:
        """Return a user by id or name, also where the database does not answer, for ``remove``.

        Raises ``NotFound``.
        """
        return await self._directory.user_to_revoke(identity)

    async def remove(self, user: User, check: Check | None = None, *, asked_by: Principal) -> None:
        """Remove a user. Raises ``NotFound``, or ``Conflict`` for the last administrator.

        ``check`` is called as in ``change``. Where the database cannot take it, this raises, the
        user is refused, and it is done once that can be. The log names ``asked_by``.
        """
        removal = _Removal(self._directory.accounts, user, check or any_revision)
        who = f"{asked_by.name} ({asked_by.id})"
        await self._directory.revoke(user.id, removal.proceed, who)

    async def check(self, name: str, password: str, address: str) -> User:
        """Return the user of a name and a password, asked from an address.

        Raises ``MataError`` with 401 for wrong ones, 429 where there were too many.
        """
        user, _ = await self._log_ins.check(name, password, address)
        return user

    async def log_in(self, name: str, password: str, address: str) -> tuple[Principal, Token]:
        """Return a user as a principal, and a token for them. Raises as ``check``.

        As they are when this returns: a password is checked for a while, and whoever was disabled
        or given another role meanwhile must not be signed in as what they were.
        """
        user, generation = await self._log_ins.check(name, password, address)
        token = self._log_ins.token(user, generation)
        await self._directory.refresh()
        principal = self._directory.owner_of(token.access_token)
        assert principal is not None  # noqa: S101 - for the type checker: it is a token of ours
        return principal, token

    async def log_out(self, token: str) -> bool:
        """Revoke a token; whether it was one that counted."""
        return await self._log_ins.revoke(token)


class _Removal:
    """The removal of a user, which is tried again where the database could not take it."""

    def __init__(self, accounts: Accounts, user: User, check: Check) -> None:
        self._accounts = accounts
        self._user = user
        self._check = check
        self._tried = self._checked = False

    async def proceed(self) -> None:
        """Do what is not done yet."""
        again, self._tried = self._tried, True
        try:
            await self._accounts.remove_user(self._user.id, self._check_once)
        except NotFound:
            if not again:
                raise

    async def _check_once(self, revision: str, connection: Connection) -> None:
        # Who changes a user that is refused already does not make them valid again by it.
        if not self._checked:
            await self._check(revision, connection)
            self._checked = True
