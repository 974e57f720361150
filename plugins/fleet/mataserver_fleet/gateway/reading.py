"""Builds the gateway's snapshot from the tables."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import msgspec
import sqlalchemy as sa

from mataserver_database import by_code_point
from mataserver_fleet.gateway.snapshot import (
    Application,
    Consumer,
    Release,
    Route,
    Snapshot,
    Target,
    is_sound,
)
from mataserver_fleet.tables import APPS, CONSUMERS, LINKS, MODELS, PLACEMENTS, ROUTES, TRITONS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mataserver_database import Connection

    Rows = Sequence[sa.RowMapping]

log = logging.getLogger("mataserver.plugin.fleet")


class Tables(msgspec.Struct, frozen=True):
    """What was read of one moment."""

    apps: Rows
    routes: Rows
    links: Rows
    consumers: Rows
    tritons: Rows
    models: Rows
    placements: Rows


_QUERIES: dict[str, sa.Select[Any]] = {
    "apps": sa.select(APPS),
    "routes": sa.select(ROUTES).order_by(ROUTES.c.app_id, by_code_point(ROUTES.c.model)),
    "links": sa.select(LINKS.c.app_id, LINKS.c.consumer_id),
    "consumers": sa.select(
        *(CONSUMERS.c[name] for name in ("id", "name", "digest", "rate", "quota"))
    ).where(CONSUMERS.c.digest.is_not(None)),
    "tritons": sa.select(*(TRITONS.c[name] for name in ("id", "host", "port", "grpc_port"))),
    "models": sa.select(MODELS.c.id, MODELS.c.name, MODELS.c.everywhere),
    "placements": sa.select(*(PLACEMENTS.c[name] for name in ("model_id", "triton_id", "wanted"))),
}


async def read(connection: Connection) -> Tables:
    """Read everything that the gateway goes by."""
    found = {
        name: (await connection.execute(query)).mappings().all() for name, query in _QUERIES.items()
    }
    return Tables(**found)


def snapshot(
    tables: Tables, timeout: float, own: Target | None = None, peers: tuple[Target, ...] = ()
) -> Snapshot:
    """Return the snapshot of what was read.

    timeout: seconds, of every application.
    own:     this server itself, for routes to its own models.
    peers:   other mataservers, which may have these models too.
    """
    served = peers if own is None else (own, *peers)
    targets = _targets(tables)
    routes: dict[int, list[Route]] = {}
    for row in tables.routes:
        if is_sound(row["model"]):
            mine = served if row["own"] else targets.get(row["model"], ())
            routes.setdefault(row["app_id"], []).append(_route(row, mine))
        else:
            log.error("the route to %r is skipped: the name cannot be part of a path", row["model"])
    linked: dict[int, set[int]] = {}
    for link in tables.links:
        linked.setdefault(link["app_id"], set()).add(link["consumer_id"])
    applications = [
        Application(
            row["name"],
            row["host"] or "",
            tuple(routes.get(row["id"], ())),
            frozenset(linked.get(row["id"], ())),
            row["retries"],
            row["resend"],
            timeout,
        )
        for row in tables.apps
    ]
    return Snapshot(applications, map(_consumer, tables.consumers), peers)


def _consumer(row: sa.RowMapping) -> Consumer:
    digest = bytes.fromhex(row["digest"])
    return Consumer(row["id"], row["name"], digest, row["rate"], row["quota"])


def _route(row: sa.RowMapping, targets: Iterable[Target]) -> Route:
    weights = msgspec.json.decode(row["weights"], type=dict[str, float])
    releases = tuple(Release(version, weight) for version, weight in weights.items() if weight > 0)
    return Route(
        model=row["model"],
        paths=tuple(msgspec.json.decode(row["paths"], type=list[str])),
        targets=tuple(targets),
        protocols=frozenset(msgspec.json.decode(row["protocols"], type=list[str])),
        releases=releases or (Release(),),
        mirror="" if row["mirror"] is None else str(row["mirror"]),
    )


def _targets(tables: Tables) -> Mapping[str, tuple[Target, ...]]:
    """Return, by a model's name, the Tritons where it is placed; probes find where it is ready."""
    every = {row["id"]: _target(row) for row in tables.tritons}
    chosen: dict[int, set[int]] = {
        row["id"]: set(every) if row["everywhere"] else set() for row in tables.models
    }
    for row in tables.placements:
        of = chosen.get(row["model_id"], set())
        if row["wanted"]:
            of.add(row["triton_id"])
        else:
            of.discard(row["triton_id"])
    return {
        row["name"]: tuple(every[each] for each in sorted(chosen[row["id"]]) if each in every)
        for row in tables.models
    }


def _target(row: sa.RowMapping) -> Target:
    return Target(row["host"], row["port"], rpc=row["grpc_port"] or 0)
