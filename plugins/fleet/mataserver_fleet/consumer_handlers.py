"""``/api/consumers``, and the consumers of each application."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import UNSET, Struct, UnsetType

from mataserver import Body, Route
from mataserver_database import PARAMETERS, finish, page_of
from mataserver_fleet.consumers import (
    ConsumerChange,
    ConsumerView,
    CreatedConsumer,
    LinkedConsumer,
    NewConsumer,
    consumer,
)
from mataserver_fleet.handlers import Handlers
from mataserver_fleet.pages import (
    BODY_ERRORS,
    IF_MATCH,
    JSON,
    MAX_BODY,
    READ,
    Status,
    caller,
    expected,
    optional_json,
    tag,
    tagged,
)

if TYPE_CHECKING:
    import sqlalchemy as sa
    from aiohttp import web

    from mataserver_database import Rows
    from mataserver_fleet.consumers import Consumers


class ConsumerList(Struct, kw_only=True):
    """A page of the consumers, and how many there are; ``next_cursor`` gives the next page."""

    consumers: list[ConsumerView]
    total: int
    next_cursor: str | UnsetType = UNSET


class ConsumerHandlers(Handlers):
    """The routes of consumers."""

    def routes(self) -> list[Route]:
        """Return the routes."""
        own, one = "/api/consumers/{consumer}", (Body(JSON, ConsumerView),)
        of = "/api/apps/{identity}/consumers"
        made, done = (Body(JSON, CreatedConsumer),), (Body(JSON, Status),)
        body = BODY_ERRORS
        write = {**READ, "max_body": MAX_BODY}  # the applications decide who may
        admin = {**write, "needs": "fleet:write"}
        bare: dict[str, Any] = {"headers": IF_MATCH, "errors": (404, 412, 422, 503, 507)}
        new, link = {"name": "till", "rate": 600}, {"tags": "shop"}
        return [
            Route("GET", "/api/consumers", self.index, "List the consumers", parameters=PARAMETERS,
                  response=(Body(JSON, ConsumerList),), errors=(422, 503), **READ),
            Route("POST", "/api/consumers", self.add, "Create a consumer; shows its key once",
                  request=(Body(JSON, NewConsumer, new),), response=made, status=201, errors=body,
                  **admin),
            Route("GET", own, self.one, "One consumer, by id or name", response=one,
                  errors=(404, 503), **READ),
            Route("PATCH", own, self.change, "Change a consumer", response=made, headers=IF_MATCH,
                  request=(Body(JSON, ConsumerChange, {"rate": 60}),), errors=(*body, 404, 412),
                  **admin),
            Route("DELETE", own, self.remove, "Remove a consumer", response=done, **bare, **admin),
            Route("POST", f"{own}/key", self.rotate, "Replace a consumer's key", response=made,
                  **bare, **write),
            Route("DELETE", f"{own}/key", self.revoke, "Revoke a consumer's key", response=made,
                  **bare, **write),
            Route("GET", of, self.linked, "The consumers of an application", parameters=PARAMETERS,
                  response=(Body(JSON, ConsumerList),), errors=(404, 422, 503), **READ),
            Route("POST", of + "/{consumer}", self.link, "Give a consumer access to an application",
                  request=(Body(JSON, LinkedConsumer, link),), optional=True, response=made,
                  status=201, headers=IF_MATCH, errors=(*body, 404, 412), **write),
            Route("DELETE", of + "/{consumer}", self.unlink,
                  "Revoke a consumer's access to an application", response=done, **bare, **write),
            Route("POST", of + "/{consumer}/key", self.rotate_linked,
                  "Replace the key of an application's consumer", response=made, **bare, **write),
        ]  # fmt: skip

    @property
    def _consumers(self) -> Consumers:
        return self._components.consumers

    async def index(self, request: web.Request) -> web.Response:
        """Answer a part of the consumers."""
        return self._listed(await finish(self._consumers.page(page_of(request))))

    async def linked(self, request: web.Request) -> web.Response:
        """Answer the consumers of an application."""
        app = request.match_info["identity"]
        row, rows = await finish(self._consumers.linked(app, page_of(request)))
        response = self._listed(rows)
        response.headers["ETag"] = tag(row["revision"])
        return response

    async def add(self, request: web.Request) -> web.Response:
        """Make a consumer."""
        async with self._ctx.http.read_json(request, NewConsumer) as new:
            row, key = await finish(self._consumers.add(new))
        self._note(request, "made the consumer", row["name"])
        return self._answer(row, key, 201)

    async def one(self, request: web.Request) -> web.Response:
        """Answer one consumer."""
        row = await finish(self._consumers.one(request.match_info["consumer"]))
        return tagged(self._ctx, ConsumerView(**consumer(row)), row["revision"])

    async def change(self, request: web.Request) -> web.Response:
        """Change a consumer."""
        name = request.match_info["consumer"]
        async with self._ctx.http.read_json(request, ConsumerChange) as requested:
            tags = expected(request, requested.version)
            row = await finish(self._consumers.change(name, requested, tags))
        self._note(request, "changed the consumer", row["name"])
        return self._answer(row)

    async def remove(self, request: web.Request) -> web.Response:
        """Remove a consumer."""
        name, remove = request.match_info["consumer"], self._components.revocations.remove
        row = await finish(remove(name, caller(request), expected(request)))
        self._note(request, "removed the consumer", row["name"])
        return self._ctx.http.respond(Status())

    async def rotate(self, request: web.Request) -> web.Response:
        """Replace a consumer's key."""
        name = request.match_info["consumer"]
        row, key = await finish(self._consumers.rotate(name, caller(request), expected(request)))
        self._note(request, "replaced the key of the consumer", row["name"])
        return self._answer(row, key)

    async def rotate_linked(self, request: web.Request) -> web.Response:
        """Replace the key of an application's consumer."""
        app, name = request.match_info["identity"], request.match_info["consumer"]
        row, key = await finish(
            self._consumers.rotate(name, caller(request), expected(request), app)
        )
        self._note(request, "replaced the key of the consumer", row["name"])
        return self._answer(row, key)

    async def revoke(self, request: web.Request) -> web.Response:
        """Revoke a consumer's key."""
        name, revoke = request.match_info["consumer"], self._components.revocations.revoke
        row = await finish(revoke(name, caller(request), expected(request)))
        self._note(request, "revoked the key of the consumer", row["name"])
        return self._answer(row)

    async def link(self, request: web.Request) -> web.Response:
        """Give a consumer access to an application."""
        requested = await optional_json(self._ctx, request, LinkedConsumer)
        app, name = request.match_info["identity"], request.match_info["consumer"]
        link = self._consumers.link(app, name, requested, caller(request), expected(request))
        row, key, revision = await finish(link)
        self._note(request, f"let ask {app!r}:", row["name"])
        response = self._answer(row, key, 201)
        response.headers["ETag"] = tag(revision)  # the application's: it is what was changed
        return response

    async def unlink(self, request: web.Request) -> web.Response:
        """Revoke a consumer's access to an application."""
        app, name = request.match_info["identity"], request.match_info["consumer"]
        unlink = self._consumers.unlink(app, name, caller(request), expected(request))
        revision = await finish(unlink)
        self._note(request, f"let ask {app!r} no more:", name)
        return tagged(self._ctx, Status(), revision)

    def _listed(self, rows: Rows) -> web.Response:
        consumers = [ConsumerView(**consumer(row)) for row in rows.found]
        listed = ConsumerList(consumers=consumers, total=rows.total, next_cursor=rows.next_cursor)
        return self._ctx.http.respond(listed)

    def _answer(
        self, row: sa.RowMapping, key: str | None = None, status: int = 200
    ) -> web.Response:
        made = CreatedConsumer(**consumer(row), key=UNSET if key is None else key)
        response = tagged(self._ctx, made, row["revision"], status)
        if key is not None:
            response.headers["Cache-Control"] = "no-store"
        return response
