"""The service: authentication, and the routes of users and keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from mataserver_accounts.directory import Directory
from mataserver_accounts.key_routes import KeyRoutes
from mataserver_accounts.login_routes import LoginRoutes
from mataserver_accounts.people import People
from mataserver_accounts.removed_principals import removed_principals
from mataserver_accounts.user_routes import UserRoutes

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from mataserver import Context, Credentials, Principal, Route


class AccountsService:
    """The service of the plugin. Other plugins have ``people``, once this is entered."""

    requires = ("database",)

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._directory = Directory(ctx.settings, ctx.log, ctx.sign_out)
        log_ins = LoginRoutes(ctx, self._directory)
        self.people = People(self._directory, log_ins)
        self._parts = (
            log_ins,
            UserRoutes(ctx, self._directory),
            KeyRoutes(ctx, self._directory),
        )

    def routes(self) -> Iterable[Route]:
        """Return every route."""
        return [route for part in self._parts for route in part.routes()]

    async def authenticate(self, credentials: Credentials) -> Principal | None:
        """Return whose credentials these are; None for what is no key and no token of ours."""
        return self._directory.owner_of(credentials.secret)

    def owner_of(self, secret: str) -> Principal | None:
        """Return the same: the secret alone decides, and memory knows it."""
        return self._directory.owner_of(secret)

    async def departed(self, principals: Collection[str]) -> set[str]:
        """Return which of these ids are of removed users and revoked keys."""
        return await removed_principals(self._ctx.peer("database").database, principals)

    async def __aenter__(self) -> Self:
        """Start. Raises ``MataError`` when accounts cannot be used as they are set up."""
        await self._directory.start(self._ctx.peer("database").database)
        self._ctx.tasks.spawn(self._directory.follow_changes, "follow accounts")
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop: the server has ended what follows changes."""
