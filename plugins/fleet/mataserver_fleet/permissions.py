"""Who may change an application: administrators, and developers who are authorised for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from mataserver import ROLES, MataError
from mataserver_database import by_code_point
from mataserver_fleet.store import find
from mataserver_fleet.tables import APPS, GRANTS, LINKS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from mataserver import Principal
    from mataserver_database import Connection
    from mataserver_fleet.store import Store

    LockUser = Callable[[Connection], Awaitable[str]]
    RemovedCheck = Callable[[Collection[str]], Awaitable[set[str]]]


class Forbidden(MataError):
    """403: the caller may not do this."""

    status = 403


async def check_manages(connection: Connection, principal: Principal, app_id: int) -> None:
    """Raise ``Forbidden`` for who may not change an application."""
    if not await _manages(connection, principal, [app_id]):
        raise Forbidden(f"{principal.name} may not change this application")


async def check_owns(connection: Connection, principal: Principal, consumer_id: int) -> None:
    """Raise ``Forbidden`` for who may not give a consumer another key, or change it.

    With its key one asks every application that it is linked to: all of them must be one's own.
    """
    query = sa.select(LINKS.c.app_id).where(LINKS.c.consumer_id == consumer_id)
    linked = list(await connection.scalars(query))
    if not principal.may("fleet:write") and not (
        linked and await _manages(connection, principal, linked)
    ):
        raise Forbidden(f"{principal.name} may not change this consumer")


async def _manages(connection: Connection, principal: Principal, apps: list[int]) -> bool:
    if principal.may("fleet:write"):
        return True
    if not principal.scopes >= ROLES["developer"]:  # a viewer, or a key that may do less
        return False
    query = sa.select(GRANTS.c.app_id).where(GRANTS.c.user_id == principal.id)
    return set(apps) <= set(await connection.scalars(query))


async def apps_of(connection: Connection, user: str) -> list[str]:
    """Return the names of the applications that a user is authorised for."""
    query = sa.select(APPS.c.name).join(GRANTS, GRANTS.c.app_id == APPS.c.id)
    query = query.where(GRANTS.c.user_id == user).order_by(by_code_point(APPS.c.name))
    return list(await connection.scalars(query))


class Grants:
    """Which users are authorised for which applications."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def apps(self, users: list[str]) -> dict[str, list[str]]:
        """Return the names of the applications of each of some users, by their ids."""
        query = (
            sa.select(GRANTS.c.user_id, APPS.c.name)
            .join(APPS, APPS.c.id == GRANTS.c.app_id)
            .where(GRANTS.c.user_id.in_(users))
            .order_by(by_code_point(APPS.c.name))
        )
        found: dict[str, list[str]] = {user: [] for user in users}
        async with self._store.read() as connection:
            for user, name in await connection.execute(query):
                found[user].append(name)
        return found

    async def grant(self, user: str, app: str, lock_user: LockUser) -> tuple[str, list[str]]:
        """Authorise a user for an application. Raises ``NotFound``, and what ``lock_user`` does.

        ``lock_user`` is called with the transaction, locks the user until its end, and returns the
        user's revision. Returns that, and the names of all of the user's applications.
        """
        async with self._store.change() as connection:
            row = await find(connection, APPS, app, "Application", lock=True)
            revision = await lock_user(connection)
            own = (GRANTS.c.user_id == user, GRANTS.c.app_id == row["id"])
            if (await connection.execute(sa.select(GRANTS).where(*own))).first() is None:
                new = sa.insert(GRANTS).values(user_id=user, app_id=row["id"])
                await connection.execute(new)
            return revision, await apps_of(connection, user)

    async def revoke(self, user: str, app: str, lock_user: LockUser) -> tuple[str, list[str]]:
        """Withdraw a user's authorisation for an application. Returns and raises as ``grant``."""
        async with self._store.change() as connection:
            row = await find(connection, APPS, app, "Application", lock=True)
            revision = await lock_user(connection)
            own = (GRANTS.c.user_id == user, GRANTS.c.app_id == row["id"])
            await connection.execute(sa.delete(GRANTS).where(*own))
            return revision, await apps_of(connection, user)

    async def forget_removed(self, removed: RemovedCheck) -> None:
        """Remove the authorisations of those users of whom ``removed`` says that they are gone."""
        async with self._store.read() as connection:
            users = set(await connection.scalars(sa.select(GRANTS.c.user_id).distinct()))
        for user in sorted(await removed(users)):
            async with self._store.database.begin() as connection:
                await connection.execute(sa.delete(GRANTS).where(GRANTS.c.user_id == user))
