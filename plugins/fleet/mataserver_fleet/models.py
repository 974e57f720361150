"""Models and their versions: a version never changes once it is there."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import sqlalchemy as sa
from msgspec import Meta, Struct

from mataserver import Conflict, InvalidParams
from mataserver_database import Sorting, by_code_point
from mataserver_fleet.apps import touch_apps
from mataserver_fleet.files import Blob
from mataserver_fleet.leftovers import leave
from mataserver_fleet.store import check_revision, find, insert, text
from mataserver_fleet.tables import (
    APPS,
    FILES,
    MODELS,
    PLACEMENTS,
    REMOVED_VERSIONS,
    ROUTES,
    VERSIONS,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mataserver_database import Connection, Page, Rows
    from mataserver_fleet.pages import Tags
    from mataserver_fleet.store import Store

ModelName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z",
        description="1 to 128 letters, digits, '.', '_' and '-', the first a letter or digit",
    ),
]
Description = Annotated[
    str, Meta(max_length=10_000, pattern=r"^[^\x00]*\Z", description="text without the character 0")
]
MAX_VERSION = 999_999_999
"""The highest number of a version: routes, Tritons and folders name no higher one."""
_BY_NAME = Sorting("models", MODELS.c.name)


class Content(Struct, frozen=True):
    """What a version is made of: its configuration, and its files by their path in the model."""

    config: dict[str, Any]
    files: dict[str, Blob]

    @property
    def size(self) -> int:
        """All of it in bytes."""
        return sum(blob.size for blob in self.files.values())

    @property
    def digest(self) -> str:
        """Its identity: the sha256 of names, digests and configuration."""
        named = sorted((path, blob.digest) for path, blob in self.files.items())
        return hashlib.sha256(msgspec.json.encode([named, self.config], order="sorted")).hexdigest()

    def renumbered(self, old: int, new: int) -> Content:
        """Return this as another version, whose number its own files have before their path."""
        own = f"{old}/"
        paths = {path: path.removeprefix(own) for path in self.files}
        named = {path: rest if rest == path else f"{new}/{rest}" for path, rest in paths.items()}
        return Content(self.config, {named[path]: blob for path, blob in self.files.items()})


class Models:
    """Keeps models."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def page(self, page: Page) -> Rows:
        """Return a page of the models, by name. Raises ``InvalidParams``."""
        async with self._store.read() as connection:
            return await _BY_NAME.page(connection, sa.select(MODELS), page)

    async def one(self, identity: str) -> sa.RowMapping:
        """Return a model by id or name. Raises ``NotFound``."""
        async with self._store.read() as connection:
            return await find(connection, MODELS, identity, "Model")

    async def add(
        self, name: str, versions: Mapping[int, Content], description: str = ""
    ) -> sa.RowMapping:
        """Make a model with its versions. Raises ``Conflict`` for a name that is taken."""
        check_name(name)
        row = {
            "name": name,
            "description": description,
            "everywhere": False,
            "everywhere_versions": "[]",
            "created_at": self._store.clock(),
            "revision": 1,
        }
        async with self._store.change(f"A model called {name} exists already") as connection:
            key = await insert(connection, MODELS, row)
            for number, content in versions.items():
                await self._insert(connection, key, number, content)
        return await self.one(name)

    async def add_version(
        self,
        identity: str,
        contents: Mapping[int, Content],
        expected: Tags | None,
        *,
        unnamed: int | None = None,
    ) -> tuple[int, list[int]]:
        """Add versions to a model; return its revision then, and their numbers.

        ``unnamed`` is the number of one that is to have the next: another one if it is taken.

        Raises ``NotFound``, ``StaleError``, ``Conflict`` for one that is there.
        """
        async with self._store.change("This version exists already") as connection:
            row = await find(connection, MODELS, identity, "Model", lock=True)
            check_revision(row, expected)
            revision = await touch_model(connection, row)
            known = sa.select(VERSIONS.c.version).where(VERSIONS.c.model_id == row["id"])
            there = set(await connection.scalars(known))
            removed = await _removed(connection, row["id"])
            if unnamed is not None and unnamed in there | removed.keys():
                # A request at the same time took it.
                free = max(there.union(contents, removed)) + 1
                moved = contents[unnamed].renumbered(unnamed, free)
                contents = {**contents, free: moved}
                del contents[unnamed]
            _check_numbers(row["name"], contents, there, removed)
            for number, content in contents.items():
                await self._insert(connection, row["id"], number, content)
        return revision, sorted(contents)

    async def describe(self, identity: str, words: str, expected: Tags | None) -> sa.RowMapping:
        """Change a model's description. Raises ``NotFound`` and ``StaleError``."""
        async with self._store.change() as connection:
            row = await find(connection, MODELS, identity, "Model", lock=True)
            check_revision(row, expected)
            await touch_model(connection, row, description=words)
        return await self.one(str(row["id"]))

    async def check_free(self, identity: str, *, force: bool) -> None:
        """Raise ``Conflict`` for a model that an application offers, unless ``force``."""
        async with self._store.read() as connection:
            row = await find(connection, MODELS, identity, "Model")
            await _check_not_offered(connection, row, force=force)

    async def remove(self, identity: str, *, force: bool) -> sa.RowMapping:
        """Forget a model that is wanted nowhere, but for which Tritons may still have it.

        Raises ``NotFound``, ``Conflict`` for one that an application offers, unless ``force``, and
        for one that is wanted again by now: nobody would know that its Tritons have it.
        """
        async with self._store.change() as connection:
            await self._store.hold(connection, "applications")
            row = await find(connection, MODELS, identity, "Model", lock=True)
            await _check_not_offered(connection, row, force=force)
            await _check_not_wanted(connection, row)
            own = (ROUTES.c.model == row["name"], ROUTES.c.own.is_(False))
            offering = sa.select(ROUTES.c.app_id).where(*own)
            await touch_apps(connection, offering, self._store.clock())
            await connection.execute(sa.delete(ROUTES).where(*own))
            await leave(connection, row["id"], row["name"])
            await connection.execute(sa.delete(MODELS).where(MODELS.c.id == row["id"]))
        return row

    async def versions(self, models: Iterable[int]) -> list[sa.RowMapping]:
        """Return the versions of some models, newest first."""
        query = sa.select(VERSIONS).where(VERSIONS.c.model_id.in_(list(models)))
        async with self._store.read() as connection:
            found = await connection.execute(query.order_by(VERSIONS.c.version.desc()))
            return list(found.mappings())

    async def files(self, versions: Iterable[int]) -> list[sa.RowMapping]:
        """Return the files of some versions, by the versions' ids."""
        query = sa.select(FILES).where(FILES.c.version_id.in_(list(versions)))
        async with self._store.read() as connection:
            return list(
                (await connection.execute(query.order_by(by_code_point(FILES.c.path)))).mappings()
            )

    async def digests(self) -> set[str]:
        """Return the digest of every file that a version has."""
        async with self._store.read() as connection:
            return set(await connection.scalars(sa.select(FILES.c.digest).distinct()))

    async def newest(self, model: int) -> tuple[int, dict[str, Any] | None]:
        """Return the highest number that a version has or had, 0 for none, and a configuration.

        It is that of the newest version, None without one.
        """
        query = sa.select(VERSIONS).where(VERSIONS.c.model_id == model)
        async with self._store.read() as connection:
            found = await connection.execute(query.order_by(VERSIONS.c.version.desc()).limit(1))
            row = found.mappings().first()
            removed = await _removed(connection, model)
        if row is None:
            return max(removed, default=0), None
        return max([row["version"], *removed]), msgspec.json.decode(row["config"])

    async def _insert(
        self, connection: Connection, model: int, number: int, content: Content
    ) -> None:
        row = {
            "model_id": model,
            "version": number,
            "config": text(content.config),
            "digest": content.digest,
            "size": content.size,
            "created_at": self._store.clock(),
        }
        key = await insert(connection, VERSIONS, row)
        files = [
            {"version_id": key, "path": path, "digest": blob.digest, "size": blob.size}
            for path, blob in content.files.items()
        ]
        if files:
            await connection.execute(sa.insert(FILES), files)


async def touch_model(connection: Connection, row: sa.RowMapping, **values: object) -> int:
    """Change a model's own columns; return its revision then: another one, also without any."""
    revision = int(row["revision"]) + 1
    change = sa.update(MODELS).where(MODELS.c.id == row["id"])
    await connection.execute(change.values(**values, revision=revision))
    return revision


async def _removed(connection: Connection, model: int) -> dict[int, str]:
    """Return the digests of a model's removed versions, by their numbers."""
    table = REMOVED_VERSIONS
    query = sa.select(table.c.version, table.c.digest).where(table.c.model_id == model)
    return {row.version: row.digest for row in await connection.execute(query)}


def _check_numbers(
    model: str, contents: Mapping[int, Content], there: set[int], removed: Mapping[int, str]
) -> None:
    """Raise ``Conflict`` for a number that another version has or had, or that is too high.

    Programs may know what it was. The same version may be sent again.
    """
    taken = set(contents) & there
    if taken:
        raise Conflict(f"{model} has a version {min(taken)}, which never changes")
    if max(contents, default=0) > MAX_VERSION:
        raise Conflict(f"{model} has or had a version {MAX_VERSION}, the highest: give a number")
    for number, content in contents.items():
        if removed.get(number, content.digest) != content.digest:
            raise Conflict(f"{model} had another version {number}: give this one another number")


def check_name(name: str) -> None:
    """Raise ``InvalidParams`` for what is no name of a model."""
    if not name:
        raise InvalidParams("name: field is required")
    try:
        msgspec.convert(name, ModelName)
    except msgspec.ValidationError:
        raise InvalidParams("name: letters, digits, and ._- behind the first") from None
    if name.isdigit():
        raise InvalidParams("name: a number is an id")


async def _check_not_offered(connection: Connection, model: sa.RowMapping, *, force: bool) -> None:
    own = (ROUTES.c.model == model["name"], ROUTES.c.own.is_(False))
    query = sa.select(APPS.c.name).join(ROUTES, ROUTES.c.app_id == APPS.c.id).where(*own)
    apps = sorted(await connection.scalars(query))
    if apps and not force:
        raise Conflict(f"{model['name']} is offered by {apps[0]}: take it out, or use force=true")


async def _check_not_wanted(connection: Connection, model: sa.RowMapping) -> None:
    own = (PLACEMENTS.c.model_id == model["id"], PLACEMENTS.c.wanted)
    placed = await connection.execute(sa.select(PLACEMENTS.c.triton_id).where(*own))
    if model["everywhere"] or placed.first() is not None:
        raise Conflict(f"{model['name']} was loaded again meanwhile: it stays")
