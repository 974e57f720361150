"""``/api/apps`` and the models of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from msgspec import UNSET, Struct, UnsetType

from mataserver import Body, Route
from mataserver_database import PARAMETERS, finish, page_of
from mataserver_fleet.app_routes import AppRoutes, NewRoute, RouteChange, RouteView, shown
from mataserver_fleet.apps import AppChange, Apps, NewApp, check_free
from mataserver_fleet.consumers import Consumers, ConsumerView, consumer
from mataserver_fleet.handlers import Handlers
from mataserver_fleet.pages import (
    BODY_ERRORS,
    IF_MATCH,
    JSON,
    MAX_BODY,
    READ,
    Status,
    caller,
    date,
    expected,
    optional_json,
    tagged,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import sqlalchemy as sa
    from aiohttp import web

    from mataserver_database import Page
    from mataserver_fleet.store import Store


_NEW = {"name": "shop", "host": "shop.example.com", "retries": 5}
_ROUTE = {"protocols": ["http"], "paths": ["/v2/models/shelf"]}


class AppView(Struct, kw_only=True):
    """An application. ``port`` is where the gateway listens."""

    id: int
    name: str
    host: str | None
    ip: str | None
    port: str
    gpus: int
    retries: int
    resend: bool
    routes: list[RouteView]
    consumers: list[ConsumerView]
    update_at: str | None
    create_at: str | None


class ChangedApp(AppView, kw_only=True):
    """An application that was changed."""

    status: str = "ok"


class AppList(Struct, kw_only=True):
    """A page of the applications, and how many there are; ``next_cursor`` gives the next page."""

    apps: list[AppView]
    total: int
    next_cursor: str | UnsetType = UNSET


class RouteList(Struct, kw_only=True):
    """A page of the models of an application, and how many there are in all."""

    routes: list[RouteView]
    total: int
    next_cursor: str | UnsetType = UNSET


class AppHandlers(Handlers):
    """The routes of applications."""

    def routes(self) -> list[Route]:
        """Return the routes."""
        path, listed = "/api/apps/{identity}", "/api/apps/{identity}/routes"
        model, own = listed + "/{model:.+}", (Body(JSON, AppView),)
        body, status = BODY_ERRORS, (Body(JSON, Status),)
        write = {**READ, "max_body": MAX_BODY}  # the application decides who may
        admin = {**write, "needs": "fleet:write"}
        return [
            Route("GET", "/api/apps", self.index, "List the applications", parameters=PARAMETERS,
                  response=(Body(JSON, AppList),), errors=(422, 503), **READ),
            Route("POST", "/api/apps", self.add, "Make an application", status=201, response=own,
                  request=(Body(JSON, NewApp, _NEW),), errors=body, **admin),
            Route("GET", path, self.one, "One application, by id or name", response=own,
                  errors=(404, 503), **READ),
            Route("PATCH", path, self.change, "Change an application", headers=IF_MATCH,
                  request=(Body(JSON, AppChange, {"retries": 3}),), errors=(*body, 404, 412),
                  response=(Body(JSON, ChangedApp),), **write),
            Route("DELETE", path, self.remove, "Remove an application", headers=IF_MATCH,
                  response=status, errors=(404, 412, 422, 503, 507), **admin),
            Route("GET", listed, self.list_routes, "The models of an application",
                  response=(Body(JSON, RouteList),), parameters=PARAMETERS,
                  errors=(404, 422, 503), **READ),
            Route("POST", model, self.add_route, "Add a model to an application", status=201,
                  optional=True, headers=IF_MATCH, errors=(*body, 404, 412), response=status,
                  request=(Body(JSON, NewRoute, _ROUTE),), **write),
            Route("PATCH", model, self.change_route, "Change how requests reach a model",
                  headers=IF_MATCH, errors=(*body, 404, 412), response=status,
                  request=(Body(JSON, RouteChange, _ROUTE),), **write),
            Route("DELETE", model, self.remove_route, "Remove a model from an application",
                  response=status, headers=IF_MATCH, errors=(404, 412, 422, 503, 507), **write),
        ]  # fmt: skip

    @property
    def _apps(self) -> Apps:
        return Apps(self._components.store)

    @property
    def _models(self) -> AppRoutes:
        return self._routes_of(self._components.store)

    def _routes_of(self, store: Store) -> AppRoutes:
        return AppRoutes(store, self._components.serves)

    async def index(self, request: web.Request) -> web.Response:
        """Answer a part of the applications."""
        return self._ctx.http.respond(await finish(self._listed(request, page_of(request))))

    async def _listed(self, request: web.Request, page: Page) -> AppList:
        async with self._components.store.snapshot() as seen:
            rows = await Apps(seen).page(page)
            apps = [AppView(**each) for each in await self._shown(request, seen, rows.found)]
        return AppList(apps=apps, total=rows.total, next_cursor=rows.next_cursor)

    async def add(self, request: web.Request) -> web.Response:
        """Make an application."""
        async with self._ctx.http.read_json(request, NewApp) as new:
            check_free(new.host, request.host)
            row = await finish(self._apps.add(new))
        self._note(request, "made the application", row["name"])
        return await self._answer(request, str(row["id"]), AppView, 201)

    async def one(self, request: web.Request) -> web.Response:
        """Answer one application."""
        return await self._answer(request, request.match_info["identity"], AppView)

    async def change(self, request: web.Request) -> web.Response:
        """Change an application."""
        identity, who = request.match_info["identity"], caller(request)
        async with self._ctx.http.read_json(request, AppChange) as requested:
            check_free(requested.host, request.host)
            tags = expected(request, requested.version)
            row = await finish(self._apps.change(identity, requested, who, tags))
        self._note(request, "changed the application", row["name"])
        return await self._answer(request, str(row["id"]), ChangedApp)

    async def remove(self, request: web.Request) -> web.Response:
        """Remove an application."""
        identity = request.match_info["identity"]
        row = await finish(self._apps.remove(identity, expected(request)))
        self._note(request, "removed the application", row["name"])
        return self._ctx.http.respond(Status())

    async def list_routes(self, request: web.Request) -> web.Response:
        """Answer the models of an application."""
        identity = request.match_info["identity"]
        app, rows = await finish(self._models.page(identity, page_of(request)))
        base = self._base(request, app)
        routes = [shown(row, base) for row in rows.found]
        listed = RouteList(routes=routes, total=rows.total, next_cursor=rows.next_cursor)
        return tagged(self._ctx, listed, app["revision"])

    async def add_route(self, request: web.Request) -> web.Response:
        """Add a model to an application."""
        requested = await optional_json(self._ctx, request, NewRoute)
        app, model = request.match_info["identity"], request.match_info["model"]
        put = self._models.put(app, model, requested, caller(request), expected(request))
        revision = await finish(put)
        self._note(request, f"brought {model!r} into the application", app)
        return tagged(self._ctx, Status(), revision, 201)

    async def change_route(self, request: web.Request) -> web.Response:
        """Change how requests reach a model."""
        app, model = request.match_info["identity"], request.match_info["model"]
        async with self._ctx.http.read_json(request, RouteChange) as requested:
            tags = expected(request, requested.version)
            change = self._models.change(app, model, requested, caller(request), tags)
            revision = await finish(change)
        self._note(request, f"changed {model!r} in the application", app)
        return tagged(self._ctx, Status(), revision)

    async def remove_route(self, request: web.Request) -> web.Response:
        """Remove a model from an application."""
        app, model = request.match_info["identity"], request.match_info["model"]
        remove = self._models.remove(app, model, caller(request), expected(request))
        revision = await finish(remove)
        self._note(request, f"took {model!r} out of the application", app)
        return tagged(self._ctx, Status(), revision)

    async def _answer(
        self, request: web.Request, identity: str, kind: type[AppView], status: int = 200
    ) -> web.Response:
        found, revision = await finish(self._seen(request, identity))
        return tagged(self._ctx, kind(**found), revision, status)

    async def _seen(self, request: web.Request, identity: str) -> tuple[dict[str, Any], int]:
        """Return an application's fields and revision, of one moment. Raises ``NotFound``."""
        async with self._components.store.snapshot() as seen:
            row = await Apps(seen).one(identity)
            (found,) = await self._shown(request, seen, [row])
            return found, row["revision"]

    async def _shown(
        self, request: web.Request, seen: Store, rows: Sequence[sa.RowMapping]
    ) -> list[dict[str, Any]]:
        """Return the fields of an ``AppView`` for each of some applications."""
        ids = [row["id"] for row in rows]
        routes = await self._routes_of(seen).of(ids)
        consumers = await Consumers(seen).of(ids)
        return [
            {
                **{name: row[name] for name in ("id", "name", "host", "ip", "gpus")},
                "port": _port(self._ctx.http.url(request)),
                "retries": row["retries"],
                "resend": bool(row["resend"]),
                "routes": [
                    shown(each, self._base(request, row))
                    for each in routes
                    if each["app_id"] == row["id"]
                ],
                "consumers": [
                    ConsumerView(**consumer(each))
                    for each in consumers
                    if each["app_id"] == row["id"]
                ],
                "update_at": date(row["updated_at"]),
                "create_at": date(row["created_at"]),
            }
            for row in rows
        ]

    def _base(self, request: web.Request, app: sa.RowMapping) -> str:
        """Return the URL that the paths of an application begin at."""
        own = self._ctx.http.url(request)
        if app["host"] is None:
            return f"{own}/gateway/{app['name']}"
        port = urlsplit(own).port
        place = app["host"] if port is None else f"{app['host']}:{port}"
        return f"{urlsplit(own).scheme}://{place}"


def _port(url: str) -> str:
    components = urlsplit(url)
    return str(components.port or (443 if components.scheme == "https" else 80))
