"""Models that were removed while a Triton could not unload them.

A row stands for a model that a Triton may still serve, or still be loading. It goes once the Triton
has been told to unload it, and where another model of that name is wanted there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from mataserver_fleet.tables import LEFTOVERS, MODELS, PLACEMENTS

if TYPE_CHECKING:
    from mataserver_database import Connection
    from mataserver_fleet.store import Store


async def leave(connection: Connection, model: int, name: str) -> None:
    """Note where a model that is being removed was not unloaded for certain."""
    own = PLACEMENTS.c.model_id == model
    behind = sa.or_(PLACEMENTS.c.done < PLACEMENTS.c.generation, PLACEMENTS.c.state != "unloaded")
    tritons = list(await connection.scalars(sa.select(PLACEMENTS.c.triton_id).where(own, behind)))
    known = (LEFTOVERS.c.triton_id.in_(tritons), LEFTOVERS.c.name == name)
    await connection.execute(sa.delete(LEFTOVERS).where(*known))
    rows = [{"triton_id": each, "name": name} for each in tritons]
    if rows:
        await connection.execute(sa.insert(LEFTOVERS), rows)


async def forget_replaced(connection: Connection, model: int, triton: int) -> None:
    """Forget what is left of a model at a Triton where another of its name takes its place."""
    name = sa.select(MODELS.c.name).where(MODELS.c.id == model).scalar_subquery()
    own = (LEFTOVERS.c.triton_id == triton, LEFTOVERS.c.name == name)
    await connection.execute(sa.delete(LEFTOVERS).where(*own))


async def names_at(store: Store, triton: int) -> set[str]:
    """Return the names of the models that may be left at a Triton."""
    query = sa.select(LEFTOVERS.c.name).where(LEFTOVERS.c.triton_id == triton)
    async with store.read() as connection:
        return set(await connection.scalars(query))


async def forget(store: Store, triton: int, name: str) -> None:
    """Forget a model that is not left at a Triton any more."""
    own = (LEFTOVERS.c.triton_id == triton, LEFTOVERS.c.name == name)
    async with store.database.begin() as connection:
        await connection.execute(sa.delete(LEFTOVERS).where(*own))
