"""The settings of ``plugins.database``."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

Url = Annotated[
    str,
    Meta(
        pattern=r"^postgres(ql(\+asyncpg)?)?://",
        description="a URL that begins with postgresql://",
        max_length=2048,
    ),
]


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the plugins' tables are.

    url:     a PostgreSQL database; without one, SQLite in ``mataserver.db`` of the data directory.
             Also ``DATABASE_URL``.
    timeout: seconds that a statement may take, or wait for a connection or for another's lock.
    pool:    connections kept open to PostgreSQL; there may be ten more for a while.
    """

    url: Annotated[Url | None, Meta(extra={"environment": "DATABASE_URL"})] = None
    timeout: Annotated[float, Meta(gt=0.0, le=600.0)] = 10.0
    pool: Annotated[int, Meta(ge=1, le=100)] = 5
