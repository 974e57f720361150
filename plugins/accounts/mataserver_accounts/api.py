"""The service: authentication, and the routes of users and keys."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Self

from mataserver import MataError
from mataserver_accounts.directory import Directory
from mataserver_accounts.key_routes import KeyRoutes
from mataserver_accounts.login_routes import LoginRoutes
from mataserver_accounts.people import People
from mataserver_accounts.removed_principals import removed_principals
from mataserver_accounts.user_routes import UserRoutes

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from mataserver import Context, Credentials, Principal, Route

_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off"}


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
        check_enabled(os.environ.get("AUTH_ENABLED", ""), self._ctx.server.auth_mode)
        await self._directory.start(self._ctx.peer("database").database)
        self._ctx.tasks.spawn(self._directory.follow_changes, "follow accounts")
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop: the server has ended what follows changes."""


def check_enabled(wish: str, mode: str) -> None:
    """Raise ``MataError`` for an ``AUTH_ENABLED`` that is not what the server does.

    A "false" has set ``auth_mode`` where it may: the variable, perhaps left over from another
    program, opens no server that others reach, and none that is to ask.
    """
    word = wish.strip().lower()
    if word and word not in _TRUE | _FALSE:
        raise MataError("environment: AUTH_ENABLED: must be true or false")
    if word in _FALSE and mode != "none":
        raise MataError(
            "environment: AUTH_ENABLED=false: this server asks for keys and tokens: auth_mode says "
            "so, or host is not the loopback alone, or trust_proxy is set; set auth_mode: none if "
            "it shall answer everybody"
        )
    if word in _TRUE and mode == "none":
        raise MataError(
            "environment: AUTH_ENABLED=true: auth_mode is none, which does not authenticate"
        )
