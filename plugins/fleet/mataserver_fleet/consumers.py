"""Consumers: programs that call applications, each with a key of which a digest is kept."""

from __future__ import annotations

import hashlib
import secrets
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import sqlalchemy as sa
from msgspec import UNSET, Meta, Struct, UnsetType

from mataserver import Conflict, InvalidParams, NotFound
from mataserver_database import Sorting
from mataserver_fleet.apps import touch_app, touch_apps
from mataserver_fleet.pages import Version, date
from mataserver_fleet.permissions import check_manages, check_owns
from mataserver_fleet.store import check_revision, find, insert
from mataserver_fleet.tables import APPS, CONSUMERS, LINKS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mataserver import Principal
    from mataserver_database import Page, Rows
    from mataserver_fleet.pages import Tags
    from mataserver_fleet.store import Store

KEY_PREFIX = "fleet_"
_BY_NAME = Sorting("consumers", CONSUMERS.c.name)
_LINKED_BY_NAME = Sorting("linked consumers", CONSUMERS.c.name)
ConsumerName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}\Z",
        description="1 to 64 letters, digits, '.', '_', '@' and '-', the first a letter or digit",
    ),
]
ConsumerTags = Annotated[
    str, Meta(max_length=1024, pattern=r"^[^\x00]*\Z", description="text without the character 0")
]
Rate = Annotated[int, Meta(ge=1, le=1_000_000_000)]


class LinkedConsumer(Struct, kw_only=True, forbid_unknown_fields=True):
    """``POST /api/apps/{identity}/consumers/{consumer}``, whose body may be left out."""

    tags: ConsumerTags = ""
    rate: Rate | None = None
    quota: Rate | None = None


class NewConsumer(LinkedConsumer, kw_only=True, forbid_unknown_fields=True):
    """``POST /api/consumers``: ``rate`` is requests a minute, ``quota`` requests a day."""

    name: ConsumerName


class ConsumerChange(Struct, kw_only=True, forbid_unknown_fields=True):
    """``PATCH /api/consumers/{consumer}``: null takes a limit away."""

    tags: ConsumerTags | UnsetType = UNSET
    rate: Rate | UnsetType | None = UNSET
    quota: Rate | UnsetType | None = UNSET
    version: Version = UNSET


class ConsumerView(Struct, kw_only=True):
    """A consumer. ``active`` is whether it has a key."""

    id: int
    name: str
    tags: str
    rate: int | None
    quota: int | None
    active: bool
    create_at: str | None


class CreatedConsumer(ConsumerView, kw_only=True):
    """A consumer; ``key`` stands in the answer that makes it, and in no other."""

    status: str = "ok"
    key: str | UnsetType = UNSET


class Consumers:
    """Makes, links and changes consumers."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def page(self, page: Page) -> Rows:
        """Return a page of the consumers, by name. Raises ``InvalidParams``."""
        async with self._store.read() as connection:
            return await _BY_NAME.page(connection, sa.select(CONSUMERS), page)

    async def one(self, identity: str) -> sa.RowMapping:
        """Return a consumer by id or name. Raises ``NotFound``."""
        async with self._store.read() as connection:
            return await find(connection, CONSUMERS, identity, "Consumer")

    async def linked(self, app: str, page: Page) -> tuple[sa.RowMapping, Rows]:
        """Return an application and a page of its consumers, by name.

        Raises ``NotFound`` and ``InvalidParams``.
        """
        async with self._store.read() as connection:
            row = await find(connection, APPS, app, "Application")
            query = _linked().where(LINKS.c.app_id == row["id"])
            return row, await _LINKED_BY_NAME.page(connection, query, page)

    async def of(self, apps: Iterable[int]) -> list[sa.RowMapping]:
        """Return the consumers of some applications, each with the ``app_id``."""
        query = _linked().where(LINKS.c.app_id.in_(list(apps)))
        async with self._store.read() as connection:
            return list((await connection.execute(_LINKED_BY_NAME(query))).mappings())

    async def add(self, new: NewConsumer) -> tuple[sa.RowMapping, str]:
        """Make a consumer; return it and its key. Raises ``Conflict``."""
        key, row = self._new_row(new.name, new)
        taken = f"There is a consumer called {new.name} already"
        async with self._store.change(taken) as connection:
            await insert(connection, CONSUMERS, row)
        return await self.one(new.name), key

    async def link(
        self,
        app: str,
        name: str,
        requested: LinkedConsumer,
        principal: Principal,
        expected: Tags | None,
    ) -> tuple[sa.RowMapping, str | None, int]:
        """Give a consumer access to an application; make it if there is none of that name.

        Returns it, its key where it was made, and the application's revision. Raises ``NotFound``,
        ``Forbidden``, ``Conflict`` for a known consumer with other limits or tags than are asked
        for and, for an application of another revision than is expected, ``StaleError``.
        """
        async with self._store.change() as connection:
            await self._store.hold(connection, "applications")
            row = await find(connection, APPS, app, "Application", lock=True)
            await check_manages(connection, principal, row["id"])
            check_revision(row, expected)
            key, revision = None, int(row["revision"])
            try:
                known = await find(connection, CONSUMERS, name, "Consumer")
            except NotFound:
                key, values = self._new_row(name, requested)
                found = await insert(connection, CONSUMERS, values)
            else:
                _check_same(known, requested)
                found = known["id"]
            own = (LINKS.c.app_id == row["id"], LINKS.c.consumer_id == found)
            if (await connection.execute(sa.select(LINKS).where(*own))).first() is None:
                new = {"app_id": row["id"], "consumer_id": found}
                stamped = sa.insert(LINKS).values(**new, created_at=self._store.clock())
                await connection.execute(stamped)
                revision = await touch_app(connection, row, self._store.clock())
        return await self.one(str(found)), key, revision

    async def unlink(self, app: str, name: str, principal: Principal, expected: Tags | None) -> int:
        """Revoke a consumer's access to an application; return the application's revision.

        Raises ``NotFound``, ``Forbidden`` and ``StaleError``.
        """
        async with self._store.change() as connection:
            await self._store.hold(connection, "applications")
            row = await find(connection, APPS, app, "Application", lock=True)
            await check_manages(connection, principal, row["id"])
            check_revision(row, expected)
            found = await find(connection, CONSUMERS, name, "Consumer")
            own = (LINKS.c.app_id == row["id"], LINKS.c.consumer_id == found["id"])
            if not (await connection.execute(sa.delete(LINKS).where(*own))).rowcount:
                raise NotFound(f"{row['name']} has no consumer {found['name']}")
            return await touch_app(connection, row, self._store.clock())

    async def change(
        self, identity: str, requested: ConsumerChange, expected: Tags | None
    ) -> sa.RowMapping:
        """Change what is given. Raises ``NotFound`` and ``StaleError``."""
        given = {name: getattr(requested, name) for name in ("tags", "rate", "quota")}
        values = {name: value for name, value in given.items() if value is not UNSET}
        async with self._store.change() as connection:
            row = await find(connection, CONSUMERS, identity, "Consumer", lock=True)
            check_revision(row, expected)
            change = sa.update(CONSUMERS).where(CONSUMERS.c.id == row["id"])
            await connection.execute(change.values(**values, revision=row["revision"] + 1))
        return await self.one(str(row["id"]))

    async def rotate(
        self, identity: str, principal: Principal, expected: Tags | None, app: str | None = None
    ) -> tuple[sa.RowMapping, str]:
        """Replace a consumer's key; the previous one is no longer valid. Return both.

        app: an application that the consumer must be linked to; None for any.

        Raises ``NotFound``, ``Forbidden``, ``StaleError``.
        """
        key = _key()
        await self._rekey(identity, principal, expected, app, digest(key))
        return await self.one(identity), key

    async def revoke(
        self, identity: str, principal: Principal, expected: Tags | None
    ) -> sa.RowMapping:
        """Revoke a consumer's key. Raises ``NotFound``, ``Forbidden`` and ``StaleError``."""
        await self._rekey(identity, principal, expected, None, None)
        return await self.one(identity)

    async def remove(self, identity: str, expected: Tags | None) -> sa.RowMapping:
        """Remove a consumer. Raises ``NotFound`` and ``StaleError``."""
        async with self._store.change() as connection:
            await self._store.hold(connection, "applications")
            row = await find(connection, CONSUMERS, identity, "Consumer", lock=True)
            check_revision(row, expected)
            linked = sa.select(LINKS.c.app_id).where(LINKS.c.consumer_id == row["id"])
            await touch_apps(connection, linked, self._store.clock())
            await connection.execute(sa.delete(CONSUMERS).where(CONSUMERS.c.id == row["id"]))
        return row

    async def _rekey(
        self,
        identity: str,
        principal: Principal,
        expected: Tags | None,
        app: str | None,
        known: str | None,
    ) -> None:
        async with self._store.change() as connection:
            row = await find(connection, CONSUMERS, identity, "Consumer", lock=True)
            if app is not None:
                of = await find(connection, APPS, app, "Application")
                own = (LINKS.c.app_id == of["id"], LINKS.c.consumer_id == row["id"])
                if (await connection.execute(sa.select(LINKS).where(*own))).first() is None:
                    raise NotFound(f"{of['name']} has no consumer {row['name']}")
            await check_owns(connection, principal, row["id"])
            check_revision(row, expected)
            change = sa.update(CONSUMERS).where(CONSUMERS.c.id == row["id"])
            await connection.execute(change.values(digest=known, revision=row["revision"] + 1))

    def _new_row(
        self, name: str, requested: NewConsumer | LinkedConsumer
    ) -> tuple[str, dict[str, Any]]:
        """Return a new key, and the row of a new consumer. Raises ``InvalidParams``."""
        if name.isdigit():
            raise InvalidParams("name: a number is an id")
        try:
            msgspec.convert(name, ConsumerName)
        except msgspec.ValidationError:
            raise InvalidParams("name: letters, digits, and ._@- behind the first") from None
        key = _key()
        row = {
            "name": name,
            "tags": requested.tags,
            "digest": digest(key),
            "rate": requested.rate,
            "quota": requested.quota,
            "created_at": self._store.clock(),
            "revision": 1,
        }
        return key, row


def digest(key: str) -> str:
    """Return what is kept of a key: it is random, so a quick hash serves."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _check_same(known: sa.RowMapping, requested: LinkedConsumer) -> None:
    """Raise ``Conflict`` for a consumer that has not what is asked for.

    Other applications may use it, so it is not changed; a limit passed over in silence would be
    believed to hold.
    """
    wanted = {name: getattr(requested, name) for name in ("tags", "rate", "quota")}
    other = [name for name, value in wanted.items() if value and value != known[name]]
    if other:
        raise Conflict(
            f"{known['name']} exists with another {' and '.join(other)}: change it by PATCH "
            f"/api/consumers/{known['name']}, or leave {'it' if len(other) == 1 else 'them'} out"
        )


def consumer(row: sa.RowMapping) -> dict[str, Any]:
    """Return the fields of a ``ConsumerView``."""
    plain = {name: row[name] for name in ("id", "name", "tags", "rate", "quota")}
    return {**plain, "active": row["digest"] is not None, "create_at": date(row["created_at"])}


def _key() -> str:
    return KEY_PREFIX + secrets.token_urlsafe(32)


def _linked() -> sa.Select[Any]:
    joined = LINKS.c.consumer_id == CONSUMERS.c.id
    return sa.select(CONSUMERS, LINKS.c.app_id).join(LINKS, joined)
