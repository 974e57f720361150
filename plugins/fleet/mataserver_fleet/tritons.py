"""The Tritons of the fleet as they are registered."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import sqlalchemy as sa
from msgspec import UNSET, Meta, Struct, UnsetType

from mataserver import Conflict, InvalidParams
from mataserver_database import Sorting
from mataserver_fleet.pages import Version, date
from mataserver_fleet.placement_requests import place_everywhere
from mataserver_fleet.store import check_revision, find, insert
from mataserver_fleet.tables import MODELS, PLACEMENTS, TRITONS

if TYPE_CHECKING:
    from mataserver_database import Connection, Page, Rows
    from mataserver_fleet.pages import Tags
    from mataserver_fleet.store import Store

State = Literal["unknown", "ready", "unready", "offline"]
TritonName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._:\[\]-]{0,127}\Z",
        description="1 to 128 letters, digits and any of . _ : [ ] -, the first a letter or digit",
    ),
]
Port = (
    Annotated[int, Meta(ge=1, le=65_535)]
    | Annotated[str, Meta(pattern=r"^[0-9]{1,5}\Z", description="a port's number")]
)
RepositoryPath = Annotated[str, Meta(max_length=4096)]
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,253}[A-Za-z0-9])?")
_BY_ID = Sorting("tritons", TRITONS.c.id)


class NewTriton(Struct, kw_only=True, forbid_unknown_fields=True):
    """``POST /api/tritons``. ``ip`` is another name of ``host``.

    ``path`` is the Triton's model repository where this server sees it too: models' files are laid
    there. Without one they are sent.
    """

    name: TritonName | None = None
    host: str | None = None
    ip: str | None = None
    port: Port
    grpc_port: Port | None = None
    metrics_port: Port | None = None
    gpus: Annotated[int, Meta(ge=0, le=1024)] | None = None
    path: RepositoryPath | None = None


class TritonChange(Struct, kw_only=True, forbid_unknown_fields=True):
    """``PATCH /api/tritons/{identity}``: what is left out stays.

    null takes away what a Triton need not have; an empty ``path`` does, too. ``version`` is that of
    its ``ETag``, not that of the program.
    """

    name: TritonName | None = None
    host: str | None = None
    ip: str | None = None
    port: Port | None = None
    grpc_port: Port | UnsetType | None = UNSET
    metrics_port: Port | UnsetType | None = UNSET
    gpus: Annotated[int, Meta(ge=0, le=1024)] | UnsetType | None = UNSET
    path: RepositoryPath | UnsetType | None = UNSET
    version: Version = UNSET


class ServedModel(Struct, frozen=True):
    """A version of a model that a Triton serves."""

    name: str
    version: str


class Gpu(Struct, frozen=True):
    """A GPU's figures from a Triton's metrics: memory in bytes, load from 0 to 1."""

    id: str
    used: float | None = None
    total: float | None = None
    load: float | None = None


class TritonReport(Struct, frozen=True):
    """What a Triton reported at its last check."""

    version: str = ""
    models: list[ServedModel] = []
    gpus: list[Gpu] = []


class TritonView(Struct, kw_only=True):
    """A Triton. ``answered_at`` is its last answer; ``reason`` why it is not ready.

    ``path`` is that of a model repository that is shared with it; without one models are sent.
    """

    id: int
    name: str
    host: str
    ip: str
    port: str
    grpc_port: str | None
    metrics_port: str | None
    gpus: int | None
    path: str | None
    state: State
    reason: str
    answered_at: str | None
    version: str
    models: list[ServedModel]
    gpu_figures: list[Gpu]
    create_at: str | None


class ChangedTriton(TritonView, kw_only=True):
    """A Triton that was changed."""

    status: str = "ok"


class Tritons:
    """Registers and forgets Tritons."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def page(self, page: Page) -> Rows:
        """Return a page of the Tritons, by id. Raises ``InvalidParams``."""
        async with self._store.read() as connection:
            return await _BY_ID.page(connection, sa.select(TRITONS), page)

    async def one(self, identity: str) -> sa.RowMapping:
        """Return a Triton by id or name. Raises ``NotFound``."""
        async with self._store.read() as connection:
            return await find(connection, TRITONS, identity, "Triton")

    async def add(self, new: NewTriton) -> sa.RowMapping:
        """Register a Triton. Raises ``Conflict`` for a name or an address that is taken."""
        values = address_of(new, new.host or new.ip)
        name = new.name or f"{bracketed(values['host'])}:{values['port']}"
        if name.isdigit():
            raise InvalidParams("name: a number is an id")
        row = {
            **values,
            "name": name,
            "gpus": new.gpus,
            "path": new.path or None,
            "state": "unknown",
            "reason": "",
            "seen": "{}",
            "created_at": self._store.clock(),
            "revision": 1,
        }
        async with self._store.change(f"A Triton called {name} exists already") as connection:
            await self._store.hold(connection, "placements")
            await _check_free(connection, row, None)
            key = await insert(connection, TRITONS, row)
            await place_everywhere(connection, key, row["created_at"])
        return await self.one(str(key))

    async def change(
        self, identity: str, requested: TritonChange, expected: Tags | None
    ) -> sa.RowMapping:
        """Change what is given. Raises ``NotFound``, ``Conflict`` and ``StaleError``."""
        async with self._store.change(
            "A Triton at that address is registered already"
        ) as connection:
            row = await find(connection, TRITONS, identity, "Triton", lock=True)
            check_revision(row, expected)
            values = _changes(row, requested)
            await _check_free(connection, {**row, **values}, row["id"])
            change = sa.update(TRITONS).where(TRITONS.c.id == row["id"])
            await connection.execute(change.values(**values, revision=row["revision"] + 1))
        return await self.one(str(row["id"]))

    async def remove(
        self, identity: str, expected: Tags | None, *, force: bool = False
    ) -> sa.RowMapping:
        """Forget a Triton. Raises ``NotFound``, ``StaleError``, ``Conflict`` for one in use."""
        async with self._store.change() as connection:
            await self._store.hold(connection, "placements")
            row = await find(connection, TRITONS, identity, "Triton", lock=True)
            check_revision(row, expected)
            own = (PLACEMENTS.c.triton_id == row["id"], PLACEMENTS.c.wanted)
            used = list(await connection.scalars(sa.select(PLACEMENTS.c.model_id).where(*own)))
            if used and not force:
                raise Conflict(f"{row['name']} has models: unload them first, or use force=true")
            # Where a model is wanted belongs to what its tag is of.
            change = sa.update(MODELS).where(MODELS.c.id.in_(used))
            await connection.execute(change.values(revision=MODELS.c.revision + 1))
            await connection.execute(sa.delete(TRITONS).where(TRITONS.c.id == row["id"]))
        return row


def triton_fields(row: sa.RowMapping) -> dict[str, Any]:
    """Return the fields of a ``TritonView``."""
    seen = msgspec.json.decode(row["seen"], type=TritonReport)
    return {
        **{name: row[name] for name in ("id", "name", "host", "gpus", "path", "state", "reason")},
        "ip": row["host"],
        "port": str(row["port"]),
        "grpc_port": _number(row["grpc_port"]),
        "metrics_port": _number(row["metrics_port"]),
        "answered_at": date(row["answered_at"]),
        "version": seen.version,
        "models": seen.models,
        "gpu_figures": seen.gpus,
        "create_at": date(row["created_at"]),
    }


def bracketed(host: str) -> str:
    """Return a host as it stands in a URL."""
    return f"[{host}]" if ":" in host else host


def _number(port: int | None) -> str | None:
    return None if port is None else str(port)


def address_of(requested: NewTriton | TritonChange, host: str | None) -> dict[str, Any]:
    """Return the given columns of an address; ``port`` is None where it is not given.

    Raises ``InvalidParams`` for one that cannot be.
    """
    if requested.host and requested.ip and requested.host != requested.ip:
        raise InvalidParams("ip: it is another name of host, and they differ")
    if host is None:
        raise InvalidParams("host: field is required")
    ports = {name: getattr(requested, name) for name in ("port", "grpc_port", "metrics_port")}
    given = {name: port for name, port in ports.items() if port is not UNSET}
    found = {name: None if port is None else int(port) for name, port in given.items()}
    for name, port in found.items():
        if port is not None and not 1 <= port <= 65_535:
            raise InvalidParams(f"{name}: must be a number from 1 to 65535")
    return {"host": _normalize_host(host), **found}


def _normalize_host(text: str) -> str:
    name = text.strip("[]").lower()
    if ":" in name:
        try:
            return str(ipaddress.IPv6Address(name))
        except ValueError:
            raise InvalidParams("host: neither a name nor an address") from None
    if not _HOST.fullmatch(name):
        raise InvalidParams("host: neither a name nor an address; the port is a field of its own")
    return name


def _changes(row: sa.RowMapping, requested: TritonChange) -> dict[str, Any]:
    if requested.name is not None and requested.name != row["name"]:
        raise Conflict("name: a Triton cannot be renamed")
    moved = address_of(requested, requested.host or requested.ip or row["host"])
    if moved["port"] is None:
        del moved["port"]
    values = dict(moved)
    if (values["host"], values.get("port", row["port"])) != (row["host"], row["port"]):
        values |= {"state": "unknown", "reason": "", "seen": "{}", "answered_at": None}
    values |= {} if requested.path is UNSET else {"path": requested.path or None}
    return values if requested.gpus is UNSET else {**values, "gpus": requested.gpus}


async def _check_free(
    connection: Connection, row: dict[str, Any] | sa.RowMapping, own: int | None
) -> None:
    """Raise ``Conflict`` for a name or an address that another has."""
    same_address = sa.and_(TRITONS.c.host == row["host"], TRITONS.c.port == row["port"])
    query = sa.select(TRITONS).where(sa.or_(TRITONS.c.name == row["name"], same_address))
    for other in (await connection.execute(query)).mappings():
        if other["id"] == own:
            continue
        if other["name"] == row["name"]:
            raise Conflict(f"A Triton called {row['name']} exists already")
        raise Conflict(f"The Triton {other['name']} is at that address already")
