"""Users, tokens and keys, made and revoked while the server runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mataserver import hookimpl
from mataserver_accounts.options import Settings

if TYPE_CHECKING:
    from mataserver import AuthContext, Context
    from mataserver_accounts.api import AccountsService


@hookimpl
def settings() -> type[Settings]:
    """Return the type of ``plugins.accounts``."""
    return Settings


@hookimpl
def auth_mode(ctx: AuthContext) -> str | None:
    """Return what ``AUTH_ENABLED`` asks for."""
    from mataserver_accounts.auth_enabled import answered_mode

    return answered_mode(ctx)


@hookimpl
def service(ctx: Context) -> AccountsService:
    """Return the service."""
    from mataserver_accounts.api import AccountsService

    return AccountsService(ctx)
