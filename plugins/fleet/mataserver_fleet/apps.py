"""Applications: what consumers ask, by a public host or by name."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import sqlalchemy as sa
from msgspec import UNSET, Meta, Struct, UnsetType

from mataserver import BadRequest, Conflict, InvalidParams
from mataserver_database import Sorting
from mataserver_fleet.gateway.matching import host_name
from mataserver_fleet.pages import Version
from mataserver_fleet.paths import check_paths
from mataserver_fleet.permissions import Forbidden, check_manages
from mataserver_fleet.store import check_revision, find, insert
from mataserver_fleet.tables import APPS

if TYPE_CHECKING:
    from mataserver import Principal
    from mataserver_database import Connection, Page, Rows
    from mataserver_fleet.pages import Tags
    from mataserver_fleet.store import Store

AppName = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9][a-z0-9._-]{0,63}\Z",
        description="1 to 64 of a-z, 0-9 and . _ -, the first a letter or digit",
    ),
]
Retries = (
    Annotated[int, Meta(ge=0, le=100)]
    | Annotated[
        str, Meta(pattern=r"^([0-9]{1,2}|100)\Z", description="a whole number from 0 to 100")
    ]
)
_Text = Annotated[
    str, Meta(max_length=255, pattern=r"^[^\x00]*\Z", description="text without the character 0")
]
Gpus = Annotated[int, Meta(extra_json_schema={"const": 1})]
_LABEL = "[A-Za-z0-9]([A-Za-z0-9-]{0,62})"
_HOST = re.compile(rf"{_LABEL}(\.{_LABEL})*|\[[0-9A-Fa-f:.]+\]")
Host = Annotated[str, Meta(max_length=255, extra_json_schema={"pattern": f"^({_HOST.pattern})?$"})]
"""Empty where the application has no host of its own."""
RETRIES = 5
_BY_NAME = Sorting("apps", APPS.c.name)


class NewApp(Struct, kw_only=True, forbid_unknown_fields=True):
    """``POST /api/apps``.

    ``host`` is the public name that it is asked by; without one it is asked below ``/gateway/``.
    ``retries`` is how often a request is tried anew; ``resend`` says that this may be done after
    a server has received it, which is safe where asking twice changes nothing.
    """

    name: AppName
    host: Host | None = None
    ip: _Text | None = None
    gpus: Gpus | None = None
    retries: Retries = RETRIES
    resend: bool = False


class AppChange(Struct, kw_only=True, forbid_unknown_fields=True):
    """``PATCH /api/apps/{identity}``: null takes ``host`` or ``ip`` away."""

    name: AppName | UnsetType = UNSET
    host: Host | UnsetType | None = UNSET
    ip: _Text | UnsetType | None = UNSET
    gpus: Gpus | UnsetType = UNSET
    retries: Retries | UnsetType = UNSET
    resend: bool | UnsetType = UNSET
    version: Version = UNSET


class Apps:
    """Makes and changes applications."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def page(self, page: Page) -> Rows:
        """Return a page of the applications, by name. Raises ``InvalidParams``."""
        async with self._store.read() as connection:
            return await _BY_NAME.page(connection, sa.select(APPS), page)

    async def one(self, identity: str) -> sa.RowMapping:
        """Return an application by id or name. Raises ``NotFound``."""
        async with self._store.read() as connection:
            return await find(connection, APPS, identity, "Application")

    async def add(self, new: NewApp) -> sa.RowMapping:
        """Make an application. Raises ``Conflict`` for a name that is taken."""
        if new.name.isdigit():
            raise InvalidParams("name: a number is an id")
        _check_gpus(new.gpus)
        now = self._store.clock()
        row = {
            "name": new.name,
            "host": _normalize_host(new.host),
            "ip": new.ip,
            "gpus": 1,
            "retries": int(new.retries),
            "resend": new.resend,
            "created_at": now,
            "updated_at": now,
            "revision": 1,
        }
        taken = f"There is an application called {new.name} already"
        async with self._store.change(taken) as connection:
            await insert(connection, APPS, row)
        return await self.one(new.name)

    async def change(
        self, identity: str, requested: AppChange, principal: Principal, expected: Tags | None
    ) -> sa.RowMapping:
        """Change the given fields.

        Raises ``NotFound``, ``Forbidden``, ``Conflict``, ``StaleError``.
        """
        async with self._store.change() as connection:
            await self._store.hold(connection, "applications")
            row = await find(connection, APPS, identity, "Application", lock=True)
            await check_manages(connection, principal, row["id"])
            _check_host(row, requested, principal)
            check_revision(row, expected)
            await _update(connection, row, _changes(row, requested, self._store.clock()))
            await check_paths(connection, row["id"])
        return await self.one(str(row["id"]))

    async def remove(self, identity: str, expected: Tags | None) -> sa.RowMapping:
        """Remove an application, its routes and links. Raises ``NotFound``, ``StaleError``."""
        async with self._store.change() as connection:
            row = await find(connection, APPS, identity, "Application", lock=True)
            check_revision(row, expected)
            await connection.execute(sa.delete(APPS).where(APPS.c.id == row["id"]))
        return row


async def touch_app(connection: Connection, row: sa.RowMapping, now: float) -> int:
    """Note that an application, its routes or its consumers changed; return its revision now."""
    await _update(connection, row, {"updated_at": now})
    return int(row["revision"]) + 1


async def touch_apps(connection: Connection, chosen: sa.Select[tuple[int]], now: float) -> None:
    """Note that some applications lose a route or a consumer, which goes as a whole.

    ``chosen`` gives their ids.
    """
    change = sa.update(APPS).where(APPS.c.id.in_(chosen))
    await connection.execute(change.values(updated_at=now, revision=APPS.c.revision + 1))


async def _update(connection: Connection, row: sa.RowMapping, values: dict[str, Any]) -> None:
    change = sa.update(APPS).where(APPS.c.id == row["id"])
    await connection.execute(change.values(**values, revision=row["revision"] + 1))


def _changes(row: sa.RowMapping, requested: AppChange, now: float) -> dict[str, Any]:
    if requested.name is not UNSET and requested.name != row["name"]:
        raise Conflict("name: an application cannot be renamed")
    if requested.gpus is not UNSET:
        _check_gpus(requested.gpus)
    values: dict[str, Any] = {"updated_at": now}
    if requested.host is not UNSET:
        values["host"] = _normalize_host(requested.host)
    if requested.ip is not UNSET:
        values["ip"] = requested.ip
    if requested.retries is not UNSET:
        values["retries"] = int(requested.retries)
    if requested.resend is not UNSET:
        values["resend"] = requested.resend
    return values


def _check_host(row: sa.RowMapping, requested: AppChange, principal: Principal) -> None:
    """Raise ``Forbidden`` for who is no administrator and gives an application another host.

    All that is asked by that name is the application's then: it may be the server's own, or that of
    another application.
    """
    moves = requested.host is not UNSET and _normalize_host(requested.host) != row["host"]
    if moves and not principal.may("fleet:write"):
        raise Forbidden("Only an administrator can set an application's host")


def _check_gpus(gpus: int | None) -> None:
    if gpus not in {None, 1}:
        raise BadRequest("gpus: an application has 1")


def check_free(host: str | UnsetType | None, asked_by: str) -> None:
    """Raise ``InvalidParams`` for a host that is the one by which the server is asked just now.

    Requests by that name, the console's among them, would reach the application alone.
    """
    if isinstance(host, str) and host and host.lower().strip("[]") == host_name(asked_by):
        raise InvalidParams("host: this is a name of the server itself: choose another")


def _normalize_host(host: str | None) -> str | None:
    """Return a public host as requests name it, without a port. Raises ``InvalidParams``."""
    if host and not _HOST.fullmatch(host):
        raise InvalidParams("host: must be the host name that clients use, without scheme and port")
    return host.lower() if host else None
