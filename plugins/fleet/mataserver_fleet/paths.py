"""The public paths of applications: each leads to one model."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec
import sqlalchemy as sa

from mataserver import Conflict, InvalidParams
from mataserver_fleet.tables import APPS, ROUTES

if TYPE_CHECKING:
    from mataserver_database import Connection

_STEPS = re.compile(r"(^|/)\.{1,2}(/|$)|//")


async def check_paths(connection: Connection, app_id: int) -> None:
    """Check the paths of an application. Raises ``Conflict`` for one that another route has.

    Those of one application differ, and those of all applications with the same host.
    """
    own = (await connection.execute(sa.select(APPS).where(APPS.c.id == app_id))).mappings().one()
    beside = APPS.c.id == app_id if own["host"] is None else APPS.c.host == own["host"]
    query = sa.select(ROUTES.c.paths, ROUTES.c.model, APPS.c.name).join(
        APPS, APPS.c.id == ROUTES.c.app_id
    )
    taken: dict[str, str] = {}
    for paths, model, app in await connection.execute(query.where(beside)):
        for path in msgspec.json.decode(paths, type=list[str]):
            if _STEPS.search(path):
                raise InvalidParams(f"paths: {path!r} has an empty part or a step")
            place = path.rstrip("/")
            if place in taken:
                raise Conflict(f"paths: {path} is that of {taken[place]} already")
            taken[place] = f"{model} in {app}"
