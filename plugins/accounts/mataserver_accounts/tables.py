"""The tables of accounts."""

from __future__ import annotations

import sqlalchemy as sa

from mataserver_database import Schema

SCHEMA = Schema("accounts", "mataserver_accounts")
CHANNEL = "accounts"
"""What is announced when an account, a key or a token changed."""
_METADATA = sa.MetaData()
USERS = sa.Table(
    "users",
    _METADATA,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("name", sa.String(64)),
    sa.Column("password", sa.String(255)),
    sa.Column("role", sa.String(16)),
    sa.Column("tags", sa.Text),
    sa.Column("disabled", sa.Boolean),
    sa.Column("generation", sa.Integer),
    sa.Column("created_at", sa.Float),
)
KEYS = sa.Table(
    "keys",
    _METADATA,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("digest", sa.String(64)),
    sa.Column("name", sa.String(64)),
    sa.Column("owner", sa.String(36)),
    sa.Column("scopes", sa.Text),
    sa.Column("rate", sa.Integer),
    sa.Column("created_at", sa.Float),
    sa.Column("expires_at", sa.Float),
)
REVOKED = sa.Table(
    "revoked_tokens",
    _METADATA,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("until", sa.Float),
)
SECRETS = sa.Table(
    "account_secrets",
    _METADATA,
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("value", sa.String(255)),
)
