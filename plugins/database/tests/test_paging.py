"""Pages by cursor, on SQLite and on PostgreSQL."""

from __future__ import annotations

import base64
import json
import random

import asyncpg
import pytest
import sqlalchemy as sa

from mataserver import InvalidParams
from mataserver_database import Cursors, Database, Page, Sorting

THINGS = sa.Table(
    "things",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(64)),
    sa.Column("made", sa.Float),
)
NAMES = [
    "Zoe",
    "a b",
    "a-b",
    "a-c",
    "a.b",
    "ab",
    "abc",
    "aé",
    "b",
    "b10",
    "b9",
    "z",
    "é",
    "日本",
    "😀",
]
ORDERS = [
    Sorting("names", THINGS.c.name),
    Sorting("newest", THINGS.c.made, THINGS.c.id, descending={"made"}),
    Sorting("numbers", THINGS.c.id),
]


@pytest.fixture
async def things(database):
    """The database with a table of things."""
    async with database.begin() as connection:
        await connection.run_sync(THINGS.metadata.create_all)
    return database


async def add(database, *names, made=(1.0,)):
    """Add things, which begin at one of some moments."""
    rows = [{"name": name, "made": made[at % len(made)]} for at, name in enumerate(names)]
    async with database.begin() as connection:
        await connection.execute(sa.insert(THINGS), rows)


async def part(database, order, page):
    """Return the names on a page, and its answer."""
    async with database.read() as connection:
        rows = await order.page(connection, sa.select(THINGS), page)
    return [row["name"] for row in rows.found], rows


@pytest.mark.parametrize("order", ORDERS, ids=["names", "newest", "numbers"])
async def test_what_stays_is_found_once(things, order):
    """A walk finds each row that stays exactly once, whatever comes and goes between its pages."""
    stays = [f"stays-{number}" for number in range(40)]
    goes = [f"goes-{number}" for number in range(40)]
    both = [*stays, *goes]
    random.Random(7).shuffle(both)
    moments = [0.1 + 0.2, 1e9 + 1 / 3, 1.79e9]  # some things begin at the same moment
    await add(things, *both, made=moments)
    found, page = [], Page(limit=7)
    for turn in range(1000):
        names, rows = await part(things, order, page)
        found += names
        if not rows.next_cursor:
            break
        await add(things, f"a{turn}", f"sz{turn}", f"z{turn}", made=[2e9, 1.5e9, 0.0])
        async with things.begin() as connection:
            gone = sa.delete(THINGS).where(THINGS.c.name.in_([names[-1], goes[turn % 40]]))
            await connection.execute(gone.where(THINGS.c.name.not_in(stays)))
        page = Page(limit=7, cursor=rows.next_cursor)
    assert sorted(name for name in found if name in stays) == sorted(stays)
    assert len(found) == len(set(found))


async def test_texts_are_sorted_as_python_sorts_them(things):
    """Both databases sort by code points, and a cursor goes by the same order."""
    await add(things, *random.Random(3).sample(NAMES, len(NAMES)))
    found, _ = await part(things, ORDERS[0], Page())
    assert found == sorted(NAMES)
    walked, page = [], Page(limit=1)
    while page is not None:
        names, rows = await part(things, ORDERS[0], page)
        walked += names
        page = Page(limit=1, cursor=rows.next_cursor) if rows.next_cursor else None
    assert walked == sorted(NAMES)


async def test_the_language_of_a_database_changes_no_order(postgres, tmp_path):
    """A database that was made for English sorts as every other."""
    connection = await asyncpg.connect(postgres)
    try:
        english = "TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en'"
        await connection.execute(f"CREATE DATABASE english {english}")
    finally:
        await connection.close()
    database = Database(tmp_path, postgres.rpartition("/")[0] + "/english")
    try:
        async with database.begin() as connection:
            await connection.run_sync(THINGS.metadata.create_all)
        await add(database, *NAMES)
        async with database.read() as connection:
            plain = sa.select(THINGS.c.name).order_by(THINGS.c.name)
            assert list(await connection.scalars(plain)) != sorted(NAMES)
        found, _ = await part(database, ORDERS[0], Page())
        assert found == sorted(NAMES)
    finally:
        await database.close()


async def test_the_last_page_has_no_cursor(things):
    """A page that ends the list says so, also one that is full."""
    await add(things, "a", "b", "c", "d")
    names, rows = await part(things, ORDERS[0], Page(limit=2))
    assert (names, rows.total) == (["a", "b"], 4)
    names, rows = await part(things, ORDERS[0], Page(limit=2, cursor=rows.next_cursor))
    assert (names, rows.total, bool(rows.next_cursor)) == (["c", "d"], 4, False)
    assert not (await part(things, ORDERS[0], Page(limit=4)))[1].next_cursor
    assert (await part(things, ORDERS[0], Page(limit=2, offset=1)))[0] == ["b", "c"]


def forged(*values):
    """Return a cursor that no list gave."""
    return base64.urlsafe_b64encode(json.dumps(values).encode()).decode()


@pytest.mark.parametrize(
    "cursor",
    [
        "", "x", "!!!!", "é", "\udcff", "A" * 10_000, "bnVsbA==", forged(), forged("newest", 1.0),
        forged("names", "a"), forged("newest", "a", 1), forged("newest", 1.0, 1, 1),
        forged("newest", 1.0, 2**31), forged("newest", 1.0, -1), forged("newest", 1.0, "1"),
        forged("newest", float("nan"), 1), forged("newest", 1.0, 1.5), forged("newest", None, 1),
    ],
)  # fmt: skip
async def test_other_cursors_are_refused(things, cursor):
    """A cursor that the list did not give, or that is damaged, is the caller's mistake."""
    await add(things, "a")
    with pytest.raises(InvalidParams, match="cursor"):
        await part(things, ORDERS[1], Page(limit=1, cursor=cursor))


def test_texts_that_no_database_holds_are_refused():
    """PostgreSQL holds no NUL: it is refused alike on both."""
    with pytest.raises(InvalidParams):
        Cursors("names", str).read(forged("names", "a\0b"))
