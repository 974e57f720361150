"""The table of the guest's schema, and what tests do with it."""

from __future__ import annotations

import sqlalchemy as sa

NOTES = sa.table("notes", sa.column("id"), sa.column("text"), sa.column("stars"))


async def texts(database):
    """Return the notes, by their numbers."""
    async with database.read() as connection:
        return list(await connection.scalars(sa.select(NOTES.c.text).order_by(NOTES.c.id)))


async def write(database, text, **more):
    """Write a note."""
    async with database.begin() as connection:
        await connection.execute(sa.insert(NOTES).values(text=text, **more))


async def fail(database, statement):
    """Announce and execute something, then fail."""
    async with database.begin() as connection:
        await database.announce(connection, "notes")
        await connection.execute(statement)
        1 / 0  # noqa: B018
