"""Where models are wanted, and what came of it: one row for a model and a Triton.

Whoever wants something raises the row's ``generation``; the reconciler sets ``done`` to the
generation that it has dealt with, and says in ``state`` and ``reason`` what came of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import sqlalchemy as sa

from mataserver import Conflict, InvalidParams
from mataserver_fleet.models import touch_model
from mataserver_fleet.store import check_revision, find, text
from mataserver_fleet.tables import FILES, MODELS, PLACEMENTS, TRITONS, VERSIONS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mataserver_database import Connection
    from mataserver_fleet.pages import Tags
    from mataserver_fleet.store import Store

LONGEST_REASON = 4_000


@dataclass(frozen=True)
class Target:
    """A placement that was asked for. ``state`` is how its Triton was then."""

    model: int
    triton: int
    generation: int
    state: str

    def away(self, now: str) -> bool:
        """Whether its Triton cannot do it soon, which is in the state ``now``.

        One that was never asked is, soon. One that was ready is waited for whatever it says: some
        are not ready while they load.
        """
        return "ready" not in {self.state, now} and now != "unknown"


@dataclass(frozen=True)
class Outcome:
    """What came of a generation of a placement.

    ``good`` is what served last; ``anew`` whether the Triton counts from 0 since.
    """

    generation: int
    state: str
    reason: str = ""
    serving: tuple[int, ...] = ()
    digest: str = ""
    good: tuple[int, ...] = ()
    anew: bool = False


@dataclass(frozen=True)
class Wanted:
    """A placement as the reconciler sees it."""

    model: int
    name: str
    wanted: bool
    versions: tuple[int, ...]
    generation: int
    done: int
    state: str
    reason: str
    serving: tuple[int, ...]
    digest: str
    good: tuple[int, ...]


class Placements:
    """Keeps where models are wanted."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def want(
        self,
        model: str,
        triton: str | None,
        versions: Sequence[int] | None,
        expected: Tags | None = None,
    ) -> list[Target]:
        """Want versions of a model at a Triton, or at all that there are and will be.

        Without ``versions`` they are those that its configuration's policy names. Raises
        ``NotFound``, ``InvalidParams``, ``Conflict``, and ``Stale`` for a model that was changed.
        """
        async with self._store.change() as connection:
            row = await find(connection, MODELS, model, "Model", lock=True)
            check_revision(row, expected)
            chosen = await _chosen(connection, row, versions)
            tritons = await _tritons(connection, triton)
            every = {"everywhere": True, "everywhere_versions": text(chosen)}
            await touch_model(connection, row, **(every if triton is None else {}))
            return [await self._set(connection, row["id"], each, chosen) for each in tritons]

    async def unwant(
        self, model: str, triton: str | None, expected: Tags | None = None
    ) -> list[Target]:
        """Want a model no more at a Triton, or at any. Raises ``NotFound`` and ``Stale``."""
        async with self._store.change() as connection:
            row = await find(connection, MODELS, model, "Model", lock=True)
            check_revision(row, expected)
            tritons = await _tritons(connection, triton)
            nowhere = {"everywhere": False, "everywhere_versions": "[]"}
            await touch_model(connection, row, **(nowhere if triton is None else {}))
            return [await self._set(connection, row["id"], each, None) for each in tritons]

    async def of(self, models: Iterable[int]) -> list[sa.RowMapping]:
        """Return the placements of some models, with their Tritons."""
        about = (TRITONS.c.name, TRITONS.c.host, TRITONS.c.port)
        now = (TRITONS.c.state.label("triton_state"), TRITONS.c.reason.label("triton_reason"))
        query = (
            sa.select(PLACEMENTS, *about, *now)
            .join(TRITONS, TRITONS.c.id == PLACEMENTS.c.triton_id)
            .where(PLACEMENTS.c.model_id.in_(list(models)))
            .order_by(TRITONS.c.id)
        )
        async with self._store.read() as connection:
            return list((await connection.execute(query)).mappings())

    async def at(self, triton: int) -> list[Wanted]:
        """Return the placements at a Triton."""
        query = (
            sa.select(PLACEMENTS, MODELS.c.name)
            .join(MODELS, MODELS.c.id == PLACEMENTS.c.model_id)
            .where(PLACEMENTS.c.triton_id == triton)
        )
        async with self._store.read() as connection:
            rows = (await connection.execute(query)).mappings().all()
        return [_wanted(row) for row in rows]

    async def contents(self, model: int, versions: Iterable[int]) -> dict[int, dict[str, Any]]:
        """Return configuration, digest and files of versions, by their number."""
        query = (
            sa.select(VERSIONS.c.version, VERSIONS.c.config, VERSIONS.c.digest, FILES.c.path,
                      FILES.c.digest.label("blob"), FILES.c.size)
            .join(FILES, FILES.c.version_id == VERSIONS.c.id)
            .where(VERSIONS.c.model_id == model, VERSIONS.c.version.in_(list(versions)))
        )  # fmt: skip
        found: dict[int, dict[str, Any]] = {}
        async with self._store.read() as connection:
            for row in (await connection.execute(query)).mappings():
                config = msgspec.json.decode(row["config"])
                fresh = {"config": config, "digest": row["digest"], "files": {}}
                files = found.setdefault(row["version"], fresh)["files"]
                files[row["path"]] = (row["blob"], row["size"])
        return found

    async def note(self, model: int, triton: int, outcome: Outcome) -> None:
        """Keep what came of a placement, unless it is wanted otherwise meanwhile."""
        values = {
            "done": outcome.generation,
            "state": outcome.state,
            "reason": outcome.reason[:LONGEST_REASON].replace("\0", ""),
            "serving": text(outcome.serving),
            "digest": outcome.digest,
            "good": text(outcome.good),
            "changed_at": self._store.clock(),
        }
        own = (
            PLACEMENTS.c.model_id == model,
            PLACEMENTS.c.triton_id == triton,
            PLACEMENTS.c.done <= outcome.generation,
        )
        async with self._store.change() as connection:
            await connection.execute(sa.update(PLACEMENTS).where(*own).values(**values))

    async def lost(self, triton: int, found: Sequence[tuple[Wanted, tuple[int, ...]]]) -> None:
        """Note what a Triton serves where that is not what it did; all of it is sent anew.

        In one transaction: whoever follows the changes is told once, however many models it lost.
        """
        async with self._store.change() as connection:
            for wanted, serving in found:
                values = {
                    "state": "loading",
                    "reason": "It was lost or changed at the Triton",
                    "serving": text(serving),
                    "changed_at": self._store.clock(),
                }
                own = (
                    PLACEMENTS.c.model_id == wanted.model,
                    PLACEMENTS.c.triton_id == triton,
                    PLACEMENTS.c.generation == wanted.generation,
                )
                await connection.execute(sa.update(PLACEMENTS).where(*own).values(**values))

    async def explain(self, wanted: Wanted, triton: int, reason: str) -> None:
        """Note why a placement is not dealt with yet.

        Where that is known already nobody is told of a change: what follows changes would look at
        the Triton at once, and do the same again.
        """
        own = (
            PLACEMENTS.c.model_id == wanted.model,
            PLACEMENTS.c.triton_id == triton,
            PLACEMENTS.c.reason != reason,
        )
        async with self._store.database.begin() as connection:
            done = await connection.execute(sa.update(PLACEMENTS).where(*own).values(reason=reason))
            if done.rowcount:
                await self._store.touch(connection)

    async def pending(self, targets: Iterable[Target]) -> list[Target]:
        """Return those of some targets that have not been dealt with and soon can be."""
        rows = await self.of({each.model for each in targets})
        known = {(row["model_id"], row["triton_id"]): row for row in rows}
        return [
            each
            for each in targets
            # One whose Triton or model was removed meanwhile is waited for no more.
            if (row := known.get((each.model, each.triton))) is not None
            and row["done"] < each.generation
            and not each.away(row["triton_state"])
        ]

    async def _set(
        self,
        connection: Connection,
        model: int,
        triton: sa.RowMapping,
        versions: list[int] | None,
    ) -> Target:
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
        return Target(model, triton["id"], values["generation"], triton["state"])


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


async def _chosen(
    connection: Connection, model: sa.RowMapping, asked: Sequence[int] | None
) -> list[int]:
    """Return which versions are wanted: those that are asked for, else those of the policy."""
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


def _wanted(row: sa.RowMapping) -> Wanted:
    return Wanted(
        model=row["model_id"],
        name=row["name"],
        wanted=bool(row["wanted"]),
        versions=tuple(msgspec.json.decode(row["versions"])),
        generation=row["generation"],
        done=row["done"],
        state=row["state"],
        reason=row["reason"],
        serving=tuple(msgspec.json.decode(row["serving"])),
        digest=row["digest"],
        good=tuple(msgspec.json.decode(row["good"])),
    )
