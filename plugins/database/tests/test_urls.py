"""URLs of PostgreSQL, as its own clients take them and hosters give them."""

from __future__ import annotations

import asyncio

import pytest
import sqlalchemy as sa

from mataserver import MataError
from mataserver_database import Busy, Database

LIMIT = "4s"


@pytest.mark.parametrize(
    ("form", "name"),
    [
        ("postgresql://{at}?sslmode=disable", ""),
        ("postgres://{at}?sslmode=prefer&application_name=shelf", "shelf"),
        ("postgresql+asyncpg://{at}?options=-c%20application_name%3Dshelf", "shelf"),
        ("postgresql://mata@127.0.0.1:1,{host}?target_session_attrs=read-write", ""),
        ("postgresql://mata@/postgres?host=127.0.0.1:1&host={address}", ""),
        ("postgresql://{at}?ssl=disable&prepared_statement_cache_size=0", ""),
    ],
)
async def test_parameters_of_a_url(tmp_path, postgres, form, name):
    """They are those of PostgreSQL's clients, or SQLAlchemy's; our limits are in force."""
    at = postgres.removeprefix("postgresql://")
    host = at.partition("@")[2]
    url = form.format(at=at, host=host, address=host.partition("/")[0])
    database = Database(tmp_path, url, timeout=4.0)
    try:
        async with database.read() as connection:
            for setting, wanted in (
                ("application_name", name),
                ("lock_timeout", LIMIT),
                ("statement_timeout", LIMIT),
            ):
                assert await connection.scalar(sa.text(f"SHOW {setting}")) == wanted
    finally:
        await database.close()


@pytest.mark.parametrize(
    ("form", "told"),
    [
        ("{url}?sslmode=perhaps", "`sslmode` parameter must be one of: disable,"),
        ("{url}?channel_binding=require", 'parameter "channel_binding"'),
        ("{url}?work_mem=much", 'invalid value for parameter "work_mem"'),
        ("postgresql://mata:hunter2", "not a URL that PostgreSQL's clients read"),
    ],
)
async def test_a_url_that_is_none(tmp_path, postgres, form, told):
    """The setting is named with what is wrong, and no part of a password."""
    database = Database(tmp_path, form.format(url=postgres))
    try:
        with pytest.raises(MataError) as raised:
            await database.check()
    finally:
        await database.close()
    assert raised.value.detail.startswith("plugins.database.url: ")
    assert told in raised.value.detail
    assert "hunter2" not in raised.value.told


async def test_what_a_connection_begins_with(tmp_path):
    """Only with what every proxy takes: PgBouncer refuses limits of statements there."""
    packets = []

    async def refuse(reader, writer):
        packets.append(await reader.readexactly(int.from_bytes(await reader.readexactly(4)) - 4))
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1") as server:
        port = server.sockets[0].getsockname()[1]
        database = Database(tmp_path, f"postgresql://mata@127.0.0.1:{port}/x?sslmode=disable")
        with pytest.raises(Busy):
            await database.check()
        await database.close()
    names = packets[0][4:].rstrip(b"\0").split(b"\0")[::2]
    assert sorted(names) == [b"client_encoding", b"database", b"user"]
