"""Removal of versions: what names one changes with it, and its number is never another's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import sqlalchemy as sa

from mataserver import Conflict, NotFound
from mataserver_fleet.apps import touch_apps
from mataserver_fleet.models import touch_model
from mataserver_fleet.store import check_revision, find, text
from mataserver_fleet.tables import MODELS, PLACEMENTS, REMOVED_VERSIONS, ROUTES, VERSIONS

if TYPE_CHECKING:
    from mataserver_database import Connection
    from mataserver_fleet.pages import Tags
    from mataserver_fleet.store import Store


async def remove_version(
    store: Store, identity: str, version: int, expected: Tags | None, *, force: bool
) -> sa.RowMapping:
    """Forget a version; return its model.

    With ``force`` also one in use: it is wanted nowhere then, and no route names it. Raises
    ``NotFound``, ``StaleError``, ``Conflict`` for one in use.
    """
    async with store.change() as connection:
        await store.hold(connection, "applications")
        await store.hold(connection, "placements")
        row = await find(connection, MODELS, identity, "Model", lock=True)
        check_revision(row, expected)
        own = (VERSIONS.c.model_id == row["id"], VERSIONS.c.version == version)
        digest = await connection.scalar(sa.select(VERSIONS.c.digest).where(*own))
        if digest is None:
            raise NotFound(f"{row['name']} has no version {version}")
        use = await _use(connection, row, version)
        if use and not force:
            raise Conflict(f"Version {version} of {row['name']} is {use}: or use force=true")
        # In this order, by which what came of a placement is stored: else the two would deadlock.
        await connection.execute(sa.delete(VERSIONS).where(*own))
        await _note_removed(connection, row["id"], version, digest)
        await _withdraw(connection, row, version, store.clock())
        await _take_from_routes(connection, row["name"], version, store.clock())
    return row


async def _note_removed(connection: Connection, model: int, version: int, digest: str) -> None:
    table = REMOVED_VERSIONS
    own = (table.c.model_id == model, table.c.version == version)
    await connection.execute(sa.delete(table).where(*own))  # it may have been sent again
    row = {"model_id": model, "version": version, "digest": digest}
    await connection.execute(sa.insert(table).values(**row))


async def _withdraw(connection: Connection, model: sa.RowMapping, version: int, now: float) -> None:
    """Want a version nowhere: a Triton that has no other one of the model unloads it.

    Left among those wanted, it would keep the others from being sent to a Triton that restarts.
    """
    everywhere = _without(model["everywhere_versions"], version)
    keeps = {"everywhere": bool(everywhere) and model["everywhere"]}
    await touch_model(connection, model, everywhere_versions=text(everywhere), **keeps)
    query = sa.select(PLACEMENTS).where(PLACEMENTS.c.model_id == model["id"])
    for row in (await connection.execute(query)).mappings().all():
        values: dict[str, Any] = {"good": text(_without(row["good"], version))}
        wanted = _without(row["versions"], version)
        if text(wanted) != row["versions"]:
            values |= {
                "versions": text(wanted),
                "wanted": bool(wanted),
                "generation": row["generation"] + 1,
                "changed_at": now,
            }
        change = sa.update(PLACEMENTS).where(
            PLACEMENTS.c.model_id == model["id"], PLACEMENTS.c.triton_id == row["triton_id"]
        )
        await connection.execute(change.values(**values))


async def _take_from_routes(connection: Connection, model: str, version: int, now: float) -> None:
    """Have no route of a model share requests out to a version, or mirror them to it.

    Where no other version has a share, requests go to whatever is loaded.
    """
    query = sa.select(ROUTES).where(ROUTES.c.model == model, ROUTES.c.own.is_(False))
    for row in (await connection.execute(query)).mappings().all():
        weights = msgspec.json.decode(row["weights"], type=dict[str, float])
        if weights.pop(str(version), None) is None and row["mirror"] != version:
            continue
        values = {
            "weights": text(weights if any(weights.values()) else {}),
            "mirror": None if row["mirror"] == version else row["mirror"],
            "revision": row["revision"] + 1,
        }
        own = (ROUTES.c.app_id == row["app_id"], ROUTES.c.model == model)
        await connection.execute(sa.update(ROUTES).where(*own).values(**values))
        app = sa.select(ROUTES.c.app_id).where(*own)
        await touch_apps(connection, app, now)


def _without(kept: str, version: int) -> list[int]:
    return [each for each in msgspec.json.decode(kept, type=list[int]) if each != version]


async def _use(connection: Connection, model: sa.RowMapping, version: int) -> str:
    """Return what a version is used for, or an empty text."""
    if version in msgspec.json.decode(model["everywhere_versions"]):
        return "wanted at every Triton"
    query = sa.select(PLACEMENTS.c.versions, PLACEMENTS.c.serving)
    placed = await connection.execute(query.where(PLACEMENTS.c.model_id == model["id"]))
    for wanted, serving in placed:
        if version in {*msgspec.json.decode(wanted), *msgspec.json.decode(serving)}:
            return "loaded"
    query = sa.select(ROUTES.c.weights, ROUTES.c.mirror)
    own = (ROUTES.c.model == model["name"], ROUTES.c.own.is_(False))
    for weights, mirror in await connection.execute(query.where(*own)):
        if str(version) in msgspec.json.decode(weights) or mirror == version:
            return "asked by an application"
    return ""
