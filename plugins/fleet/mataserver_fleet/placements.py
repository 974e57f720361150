"""The state of placements: one row for a model and a Triton.

A request (``placement_requests``) raises the row's ``generation``; the reconciler sets ``done`` to
the generation that it has handled, and ``state`` and ``reason`` to the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import sqlalchemy as sa

from mataserver_fleet.store import text
from mataserver_fleet.tables import FILES, MODELS, PLACEMENTS, TRITONS, VERSIONS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mataserver_database import Connection
    from mataserver_fleet.store import Store


@dataclass(frozen=True)
class Outcome:
    """The result of a generation of a placement.

    ``last_good`` is what served last; ``counts_reset`` whether the Triton counts from 0 since.
    """

    generation: int
    state: str
    reason: str = ""
    serving: tuple[int, ...] = ()
    digest: str = ""
    last_good: tuple[int, ...] = ()
    counts_reset: bool = False


@dataclass(frozen=True)
class Placement:
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
    last_good: tuple[int, ...]


class Placements:
    """Stores the state of placements."""

    def __init__(self, store: Store) -> None:
        self._store = store

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

    async def at(self, triton: int) -> list[Placement]:
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
        """Store the result of a placement, unless a later generation was stored."""
        values: dict[str, Any] = {
            "done": outcome.generation,
            "state": outcome.state,
            "reason": outcome.reason,
            "serving": text(outcome.serving),
            "digest": outcome.digest,
            "good": text(outcome.last_good),
            "changed_at": self._store.clock(),
        }
        own = (
            PLACEMENTS.c.model_id == model,
            PLACEMENTS.c.triton_id == triton,
            PLACEMENTS.c.done <= outcome.generation,
        )
        async with self._store.change() as connection:
            # In this order, by which a removed model goes: else the two would wait for one another.
            if outcome.last_good:
                await _note_served(connection, model, outcome.last_good, values["changed_at"])
            await connection.execute(sa.update(PLACEMENTS).where(*own).values(**values))

    async def note_lost(
        self, triton: int, found: Sequence[tuple[Placement, tuple[int, ...]]]
    ) -> None:
        """Store what a Triton serves now where it lost models; they will be sent again.

        In one transaction: one notification, however many models it lost.
        """
        async with self._store.change() as connection:
            for placement, serving in found:
                values = {
                    "state": "loading",
                    "reason": "It was lost or changed at the Triton",
                    "serving": text(serving),
                    "changed_at": self._store.clock(),
                }
                own = (
                    PLACEMENTS.c.model_id == placement.model,
                    PLACEMENTS.c.triton_id == triton,
                    PLACEMENTS.c.generation == placement.generation,
                )
                await connection.execute(sa.update(PLACEMENTS).where(*own).values(**values))

    async def note_reason(self, placement: Placement, triton: int, reason: str) -> None:
        """Note why a placement is not dealt with yet.

        An unchanged reason sends no notification: it would wake the reconciler, which would fail
        the same way again. The text behind a colon is a library's own and differs from one try to
        the next: it is stored, and does not count as a change.
        """
        own = (
            PLACEMENTS.c.model_id == placement.model,
            PLACEMENTS.c.triton_id == triton,
            PLACEMENTS.c.reason != reason,
        )
        async with self._store.database.begin() as connection:
            known = await connection.scalar(sa.select(PLACEMENTS.c.reason).where(*own))
            if known is None:
                return
            await connection.execute(sa.update(PLACEMENTS).where(*own).values(reason=reason))
            if known.partition(":")[0] != reason.partition(":")[0]:
                await self._store.bump_version(connection)


async def _note_served(
    connection: Connection, model: int, versions: Iterable[int], now: float
) -> None:
    """Keep since when versions have been known to be loadable."""
    own = (VERSIONS.c.model_id == model, VERSIONS.c.version.in_(list(versions)))
    first = sa.update(VERSIONS).where(*own, VERSIONS.c.served_at.is_(None))
    await connection.execute(first.values(served_at=now))


def _wanted(row: sa.RowMapping) -> Placement:
    return Placement(
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
        last_good=tuple(msgspec.json.decode(row["good"])),
    )
