"""The routes of applications: which models they offer, and under which public paths."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import sqlalchemy as sa
from msgspec import UNSET, Meta, Struct, UnsetType

from mataserver import InvalidParams, NotFound
from mataserver_database import Sorting
from mataserver_fleet.apps import touch_app
from mataserver_fleet.pages import Version, date
from mataserver_fleet.paths import check_paths
from mataserver_fleet.permissions import check_manages
from mataserver_fleet.store import check_revision, find, text
from mataserver_fleet.tables import APPS, MODELS, ROUTES, VERSIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mataserver import Principal
    from mataserver_database import Connection, Page, Rows
    from mataserver_fleet.pages import Tags
    from mataserver_fleet.store import Store

Protocol = Literal["http", "grpc", "ws"]
PublicPath = Annotated[
    str,
    Meta(
        pattern=r"^/[A-Za-z0-9._~:@+/-]*\Z",
        description="a path that begins with /, of letters, digits and any of . _ ~ : @ + / -",
        max_length=255,
    ),
]
Weight = Annotated[float, Meta(ge=0.0, le=1e6)]
Number = Annotated[
    str, Meta(pattern=r"^[1-9][0-9]{0,8}\Z", description="a whole number from 1 to 999999999")
]
_BY_MODEL = Sorting("routes", ROUTES.c.model)


class NewRoute(Struct, kw_only=True, forbid_unknown_fields=True):
    """``POST /api/apps/{identity}/routes/{model}``, whose body may be left out.

    ``weights`` divides requests that name no version among versions; ``mirror`` is a version that
    is sent a copy of each and whose answer counts for nothing.
    """

    protocols: Annotated[list[Protocol], Meta(min_length=1, max_length=3)] | UnsetType = UNSET
    paths: Annotated[list[PublicPath], Meta(min_length=1, max_length=32)] | UnsetType = UNSET
    weights: Annotated[dict[Number, Weight], Meta(max_length=32)] | UnsetType = UNSET
    mirror: Number | UnsetType | None = UNSET


class RouteChange(NewRoute, kw_only=True, forbid_unknown_fields=True):
    """``PATCH`` there: what is left out stays. ``version`` is the application's."""

    version: Version = UNSET


class RouteView(Struct, kw_only=True):
    """A model of an application. ``url`` is where it is asked."""

    model_name: str
    protocols: list[str]
    url: str
    paths: list[str]
    weights: dict[str, float]
    mirror: str | None
    create_at: str | None


class AppRoutes:
    """Brings models into applications. ``own``: whether a mataserver has a model."""

    def __init__(self, store: Store, own: Callable[[str], bool]) -> None:
        self._store = store
        self._own = own

    async def page(self, app: str, page: Page) -> tuple[sa.RowMapping, Rows]:
        """Return an application and a page of its routes, by model.

        Raises ``NotFound`` and ``InvalidParams``.
        """
        async with self._store.read() as connection:
            row = await find(connection, APPS, app, "Application")
            query = sa.select(ROUTES).where(ROUTES.c.app_id == row["id"])
            return row, await _BY_MODEL.page(connection, query, page)

    async def of(self, apps: Iterable[int]) -> list[sa.RowMapping]:
        """Return every route of some applications, by model."""
        query = sa.select(ROUTES).where(ROUTES.c.app_id.in_(list(apps)))
        async with self._store.read() as connection:
            return list((await connection.execute(_BY_MODEL(query))).mappings())

    async def put(
        self, app: str, model: str, requested: NewRoute, principal: Principal, expected: Tags | None
    ) -> int:
        """Add a model to an application; one that is there is changed where it is asked.

        Returns the application's revision, as all that change it do. Raises ``NotFound``,
        ``Forbidden``, ``StaleError``, ``Conflict`` for a path that another route has.
        """
        async with self._store.change() as connection:
            await self._store.hold(connection, "applications")
            row = await find(connection, APPS, app, "Application", lock=True)
            await check_manages(connection, principal, row["id"])
            check_revision(row, expected)
            name, own = await self._model(connection, model)
            await _check_versions(connection, name, requested, own=own)
            await self._write(connection, row, name, requested, own=own)
            await check_paths(connection, row["id"])
            return await touch_app(connection, row, self._store.clock())

    async def change(
        self, app: str, model: str, requested: NewRoute, principal: Principal, expected: Tags | None
    ) -> int:
        """Change a route. Raises as ``put``, and ``NotFound`` for a model that is not there."""
        async with self._store.read() as connection:
            row = await find(connection, APPS, app, "Application")
            await _route(connection, row, model)
        return await self.put(app, model, requested, principal, expected)

    async def remove(
        self, app: str, model: str, principal: Principal, expected: Tags | None
    ) -> int:
        """Remove a route. Raises ``NotFound``, ``Forbidden``, ``StaleError``."""
        async with self._store.change() as connection:
            await self._store.hold(connection, "applications")
            row = await find(connection, APPS, app, "Application", lock=True)
            await check_manages(connection, principal, row["id"])
            check_revision(row, expected)
            route = await _route(connection, row, model)
            own = (ROUTES.c.app_id == row["id"], ROUTES.c.model == route["model"])
            await connection.execute(sa.delete(ROUTES).where(*own))
            return await touch_app(connection, row, self._store.clock())

    async def _model(self, connection: Connection, model: str) -> tuple[str, bool]:
        """Return a model's name, and whether it is this server's own. Raises ``NotFound``."""
        try:
            found = await find(connection, MODELS, model, "Model")
        except NotFound:
            if not self._own(model):
                raise
            return model, True
        return str(found["name"]), False

    async def _write(
        self,
        connection: Connection,
        app: sa.RowMapping,
        model: str,
        requested: NewRoute,
        *,
        own: bool,
    ) -> None:
        fields = {name: getattr(requested, name) for name in NewRoute.__struct_fields__}
        given = {name: value for name, value in fields.items() if value is not UNSET}
        values: dict[str, Any] = {
            name: text(value) for name, value in given.items() if name != "mirror"
        }
        if "mirror" in given:
            values["mirror"] = given["mirror"] and int(given["mirror"])
        mine = (ROUTES.c.app_id == app["id"], ROUTES.c.model == model)
        known = (await connection.execute(sa.select(ROUTES).where(*mine))).mappings().first()
        if known is not None:
            if values:
                values["revision"] = known["revision"] + 1
                await connection.execute(sa.update(ROUTES).where(*mine).values(**values))
            return
        fresh = {
            "app_id": app["id"],
            "model": model,
            "own": own,
            "protocols": text(["http"]),
            "paths": text([f"/v2/models/{model}"]),
            "weights": "{}",
            "mirror": None,
            "created_at": self._store.clock(),
            "revision": 1,
        }
        await connection.execute(sa.insert(ROUTES).values(**{**fresh, **values}))


def shown(row: sa.RowMapping, base: str) -> RouteView:
    """Return what is shown of a route. ``base`` is the URL that its paths begin at."""
    paths = msgspec.json.decode(row["paths"], type=list[str])
    return RouteView(
        model_name=row["model"],
        protocols=msgspec.json.decode(row["protocols"]),
        url=base + paths[0],
        paths=paths,
        weights=msgspec.json.decode(row["weights"]),
        mirror=None if row["mirror"] is None else str(row["mirror"]),
        create_at=date(row["created_at"]),
    )


async def _route(connection: Connection, app: sa.RowMapping, model: str) -> sa.RowMapping:
    """Return the route of a model, by the model's name or id. Raises ``NotFound``."""
    names = [model]
    if model.isascii() and model.isdigit() and len(model) < 10:
        query = sa.select(MODELS.c.name).where(MODELS.c.id == int(model))
        names += list(await connection.scalars(query))
    if "\0" not in model:
        query_ = sa.select(ROUTES).where(ROUTES.c.app_id == app["id"], ROUTES.c.model.in_(names))
        found = (await connection.execute(query_)).mappings().first()
        if found is not None:
            return found
    raise NotFound(f"{app['name']} has no model {model[:64]!r}")


async def _check_versions(
    connection: Connection, model: str, requested: NewRoute, *, own: bool
) -> None:
    """Raise ``InvalidParams`` for versions that a model does not have."""
    weights = {} if requested.weights is UNSET else requested.weights
    named = {int(each) for each in weights}
    if isinstance(requested.mirror, str):
        named.add(int(requested.mirror))
    if weights and not any(weights.values()):
        raise InvalidParams("weights: one of them must be over 0")
    if not named:
        return
    if own:
        raise InvalidParams("weights, mirror: a model of this server has one version")
    query = (
        sa.select(VERSIONS.c.version)
        .join(MODELS, MODELS.c.id == VERSIONS.c.model_id)
        .where(MODELS.c.name == model)
    )
    absent = named - set(await connection.scalars(query))
    if absent:
        raise InvalidParams(f"{model} has no version {min(absent)}")
