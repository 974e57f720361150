"""The settings of ``plugins.accounts``."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from mataserver_accounts.records import UserName

Secret = Annotated[str, Meta(min_length=32, max_length=4096)]
"""RFC 7518 asks for as many bits as the hash has: 32 bytes."""
Hash = Annotated[str, Meta(min_length=1, max_length=255)]


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tokens, and the first administrator.

    token_seconds: how long a token counts. Also ``JWT_EXPIRY_SECONDS``.
    jwt_secret:    what tokens are signed with; without it one is made and kept in the database.
                   Also ``JWT_SECRET``.
    username:      the first administrator, made while there is none. Also ``API_USERNAME``.
    password_hash: their password's SHA-256 in hex, or its argon2 hash. Also ``API_PASSWORD_HASH``.
    """

    token_seconds: Annotated[
        int, Meta(ge=1, le=31_536_000, extra={"environment": "JWT_EXPIRY_SECONDS"})
    ] = 900
    jwt_secret: Annotated[Secret | None, Meta(extra={"environment": "JWT_SECRET"})] = None
    username: Annotated[UserName | None, Meta(extra={"environment": "API_USERNAME"})] = None
    password_hash: Annotated[Hash | None, Meta(extra={"environment": "API_PASSWORD_HASH"})] = None
