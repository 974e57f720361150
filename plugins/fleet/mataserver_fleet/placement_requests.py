"""Requested placements of models: at a Triton, at all present and future ones, or nowhere.

They are rows of ``placements``; each request raises a row's ``generation``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import sqlalchemy as sa

from mataserver import Conflict, InvalidParams
from mataserver_fleet.leftovers import forget_replaced
from mataserver_fleet.models import touch_model
from mataserver_fleet.store import check_revision, find, text
from mataserver_fleet.tables import MODELS, PLACEMENTS, TRITONS, VERSIONS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mataserver_database import Connection
    from mataserver_fleet.pages import Tags
    from mataserver_fleet.store import Store


@dataclass(frozen=True)
class PlacementTarget:
    """A requested placement. ``state`` is that of its Triton at the time."""

    model: int
    triton: int
    generation: int
    state: str

    def is_away(self, now: str) -> bool:
        """Whether its Triton cannot do it soon, which is in the state ``now``.

        One that was never asked is, soon. One that was ready is waited for whatever it says: some
        are not ready while they load.
        """
        return "ready" not in {self.state, now} and now != "unknown"


class PlacementRequest(NamedTuple):
    """A request for a model: the placement at each Triton, and the model's revision after it."""

    targets: list[PlacementTarget]
    revision: int


class PlacementRequests:
    """Stores where models are wanted."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def request(
        self,
        model: str,
        triton: str | None,
        versions: Sequence[int] | None,
        expected: Tags | None = None,
    ) -> PlacementRequest:
        """Want versions of a model at a Triton, or at all that there are and will be.

        Without ``versions`` they are those that its configuration's policy names. Raises
        ``NotFound``, ``InvalidParams``, ``Conflict``, and ``StaleError`` for a changed model.
        """
        async with self._store.change() as connection:
            await self._store.hold(connection, "placements")
            row = await find(connection, MODELS, model, "Model", lock=True)
            check_revision(row, expected)
            chosen = await _requested_versions(connection, row, versions)
            tritons = await _tritons(connection, triton)
            every = {"everywhere": True, "everywhere_versions": text(chosen)}
            revision = await touch_model(connection, row, **(every if triton is None else {}))
            made = [await self._set(connection, row["id"], each, chosen) for each in tritons]
            return PlacementRequest(made, revision)

    async def withdraw(
        self, model: str, triton: str | None, expected: Tags | None = None
    ) -> PlacementRequest:
        """Withdraw a model from a Triton, or from all. Raises ``NotFound`` and ``StaleError``."""
        async with self._store.change() as connection:
            await self._store.hold(connection, "placements")
            row = await find(connection, MODELS, model, "Model", lock=True)
            check_revision(row, expected)
            tritons = await _tritons(connection, triton)
            nowhere = {"everywhere": False, "everywhere_versions": "[]"}
            revision = await touch_model(connection, row, **(nowhere if triton is None else {}))
            made = [await self._set(connection, row["id"], each, None) for each in tritons]
            return PlacementRequest(made, revision)

    async def roll_back(self, model: str, expected: Tags | None = None) -> PlacementRequest:
        """Want, wherever a newer one is wanted, the version before the newest that is.

        It is one that a Triton has served: one that never could be loaded is passed over. What is
        wanted of older ones stays, also beside it: traffic may be shared out to them. Raises
        ``NotFound``, ``StaleError``, and ``Conflict`` where there is none to go back to.
        """
        async with self._store.change() as connection:
            await self._store.hold(connection, "placements")
            row = await find(connection, MODELS, model, "Model", lock=True)
            check_revision(row, expected)
            everywhere = _numbers(row["everywhere_versions"]) if row["everywhere"] else []
            placed = await _wanted_placements(connection, row["id"])
            now = max([0, *everywhere, *(number for _, wanted in placed for number in wanted)])
            before = await _last_served_before(connection, row, now)
            every = {}
            if max([0, *everywhere]) > before:
                every = {"everywhere_versions": text(_rolled_back(everywhere, before))}
            revision = await touch_model(connection, row, **every)
            made = [
                await self._set(connection, row["id"], triton, _rolled_back(wanted, before))
                for triton, wanted in placed
                if max(wanted) > before
            ]
            return PlacementRequest(made, revision)

    async def _set(
        self,
        connection: Connection,
        model: int,
        triton: sa.RowMapping,
        versions: list[int] | None,
    ) -> PlacementTarget:
        """Want versions at a Triton, or None of them."""
        own = (PLACEMENTS.c.model_id == model, PLACEMENTS.c.triton_id == triton["id"])
        query = sa.select(PLACEMENTS.c.generation).where(*own)
        known = await connection.scalar(query)
        values: dict[str, Any] = {
            "wanted": versions is not None,
            "versions": text(versions or []),
            "generation": (known or 0) + 1,
            "changed_at": self._store.clock(),
        }
        if known is None:
            await place(connection, model, triton["id"], values)
        else:
            await connection.execute(sa.update(PLACEMENTS).where(*own).values(**values))
        return PlacementTarget(model, triton["id"], values["generation"], triton["state"])


async def place(connection: Connection, model: int, triton: int, values: dict[str, Any]) -> None:
    """Make the row of a placement."""
    fresh = {
        "model_id": model,
        "triton_id": triton,
        "done": 0,
        "state": "unloaded",
        "reason": "",
        "serving": "[]",
        "digest": "",
        "good": "[]",
    }
    await connection.execute(sa.insert(PLACEMENTS).values(**fresh, **values))
    await forget_replaced(connection, model, triton)


async def place_everywhere(connection: Connection, triton: int, now: float) -> None:
    """Want at a new Triton whatever is wanted everywhere."""
    query = sa.select(MODELS.c.id, MODELS.c.everywhere_versions).where(MODELS.c.everywhere)
    for model, versions in list(await connection.execute(query)):
        values = {"wanted": True, "versions": versions, "generation": 1, "changed_at": now}
        await place(connection, model, triton, values)


async def _tritons(connection: Connection, identity: str | None) -> list[sa.RowMapping]:
    if identity is not None:
        return [await find(connection, TRITONS, identity, "Triton")]
    every = sa.select(TRITONS).order_by(TRITONS.c.id)
    return list((await connection.execute(every)).mappings())


async def _wanted_placements(
    connection: Connection, model: int
) -> list[tuple[sa.RowMapping, list[int]]]:
    """Return the Tritons where a model is wanted, each with the versions that are."""
    query = (
        sa.select(TRITONS, PLACEMENTS.c.versions)
        .join(PLACEMENTS, PLACEMENTS.c.triton_id == TRITONS.c.id)
        .where(PLACEMENTS.c.model_id == model, PLACEMENTS.c.wanted)
        .order_by(TRITONS.c.id)
    )
    rows = (await connection.execute(query)).mappings()
    return [(row, _numbers(row["versions"])) for row in rows]


async def _last_served_before(connection: Connection, model: sa.RowMapping, version: int) -> int:
    """Return the newest version before another that a Triton has served. Raises ``Conflict``."""
    if not version:
        raise Conflict(f"{model['name']} is not wanted anywhere")
    own = (VERSIONS.c.model_id == model["id"], VERSIONS.c.version < version)
    query = sa.select(sa.func.max(VERSIONS.c.version)).where(
        *own, VERSIONS.c.served_at.is_not(None)
    )
    found = await connection.scalar(query)
    if found is None:
        raise Conflict(f"{model['name']} has no version before {version} that was ever loaded")
    return int(found)


async def _requested_versions(
    connection: Connection, model: sa.RowMapping, asked: Sequence[int] | None
) -> list[int]:
    """Return which versions are wanted: the requested ones, else those of the policy."""
    query = sa.select(VERSIONS.c.version, VERSIONS.c.config).where(
        VERSIONS.c.model_id == model["id"]
    )
    rows = list(await connection.execute(query.order_by(VERSIONS.c.version.desc())))
    known = [row.version for row in rows]
    if not known:
        raise Conflict(f"{model['name']} has no version: send its files first")
    if asked:
        absent = set(asked) - set(known)
        if absent:
            raise InvalidParams(f"versions: {model['name']} has no version {min(absent)}")
        return sorted(asked)
    policy = msgspec.json.decode(rows[0].config).get("version_policy", {})
    if "all" in policy:
        return sorted(known)
    if "specific" in policy:
        named = {int(each) for each in policy["specific"].get("versions", ())}
        return sorted(named & set(known)) or known[:1]
    return sorted(known[: max(1, int(policy.get("latest", {}).get("num_versions", 1)))])


def _rolled_back(wanted: list[int], before: int) -> list[int]:
    """Return the versions that stay wanted when ``before`` takes the place of newer ones."""
    return sorted({before, *(each for each in wanted if each < before)})


def _numbers(kept: str) -> list[int]:
    return msgspec.json.decode(kept, type=list[int])
