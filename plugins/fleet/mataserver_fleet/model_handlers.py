"""``/api/models``: what there is, and loading and unloading it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType

from mataserver import Body, InvalidParams, MataError, Route, check_query
from mataserver_database import PARAMETERS, finish, page_of
from mataserver_fleet.handlers import Handlers
from mataserver_fleet.load_answers import refusal, results
from mataserver_fleet.loading import LoadResponse, ModelLoader
from mataserver_fleet.model_views import ChangedModel, ModelDetail, ModelView, ModelViews
from mataserver_fleet.models import Description, Models
from mataserver_fleet.pages import (
    BODY_ERRORS,
    FORCE,
    IF_MATCH,
    JSON,
    MAX_BODY,
    READ,
    Status,
    Version,
    caller,
    expected,
    flag,
    optional_json,
    tagged,
)
from mataserver_fleet.store import check_revision
from mataserver_fleet.triton_client import Address, TritonClient

if TYPE_CHECKING:
    from collections.abc import Callable

    import sqlalchemy as sa
    from aiohttp import web

    from mataserver_fleet.loading import LoadOutcome

Number = (
    Annotated[int, Meta(ge=1, lt=10**9)]
    | Annotated[
        str, Meta(pattern=r"^[1-9][0-9]{0,8}\Z", description="a whole number from 1 to 999999999")
    ]
)
"""A version; answers have it as text."""
TRITON: dict[str, tuple[Any, bool, str]] = {
    "triton_id": (str, False, "Only at this Triton, by id or name [all of them].")
}


class ModelList(Struct, kw_only=True):
    """A page of the models, and how many there are; ``next_cursor`` gives the next page."""

    models: list[ModelView]
    total: int
    next_cursor: str | UnsetType = UNSET


class ModelChange(Struct, kw_only=True, forbid_unknown_fields=True):
    """``PATCH /api/models/{identity}``: ``version`` is that of its ``ETag``."""

    description: Description
    version: Version = UNSET


class UnloadRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    """``POST /api/models/{identity}/unload``, whose body may be left out.

    ``triton_id`` is the id or the name of a Triton, without one it is all of them.
    """

    triton_id: int | str | None = None


class LoadRequest(UnloadRequest, kw_only=True, forbid_unknown_fields=True):
    """``POST /api/models/{identity}/load``, likewise.

    ``versions`` are those to load, without any those of the configuration's policy.
    """

    versions: Annotated[list[Number], Meta(min_length=1, max_length=100)] | UnsetType = UNSET


class ModelHandlers(Handlers):
    """The routes of models, but for their files."""

    def routes(self) -> list[Route]:
        """Return the routes."""
        path, example = "/api/models/{identity}", {"triton_id": "gpu-1"}
        write = {**READ, "needs": "fleet:write", "max_body": MAX_BODY}
        body = (400, 404, 408, 409, 412, 413, 415, 422, 502, 503, 507)
        done = (Body(JSON, Status),)
        load: dict[str, Any] = {
            "optional": True,
            "errors": body,
            "headers": IF_MATCH,
        }
        return [
            Route("GET", "/api/models", self.index, "List the models", parameters=PARAMETERS,
                  response=(Body(JSON, ModelList),), errors=(422, 503), **READ),
            Route("GET", path, self.one, "One model, by id or name", parameters=TRITON,
                  response=(Body(JSON, ModelDetail),), errors=(404, 422, 503), **READ),
            Route("PATCH", path, self.change, "Describe a model", headers=IF_MATCH,
                  request=(Body(JSON, ModelChange, {"description": "Reads shelves"}),),
                  response=(Body(JSON, ChangedModel),),
                  errors=(*BODY_ERRORS, 404, 412), **write),
            Route("DELETE", path, self.remove, "Unload a model and remove it", parameters=FORCE,
                  headers=IF_MATCH, response=done,
                  errors=(404, 409, 412, 422, 502, 503, 507), **write),
            Route("POST", f"{path}/load", self.load, "Load a model", parameters=TRITON,
                  request=(Body(JSON, LoadRequest, example),),
                  response=(Body(JSON, LoadResponse),), **load, **write),
            Route("POST", f"{path}/unload", self.unload, "Unload a model", parameters=TRITON,
                  request=(Body(JSON, UnloadRequest, example),),
                  response=(Body(JSON, LoadResponse),), **load, **write),
            Route("POST", f"{path}/rollback", self.roll_back,
                  "Load the version before the newest that is wanted", headers=IF_MATCH,
                  response=(Body(JSON, LoadResponse),),
                  errors=(404, 409, 412, 422, 502, 503, 507), **write),
        ]  # fmt: skip

    @property
    def _models(self) -> Models:
        return Models(self._components.store)

    @property
    def _loading(self) -> ModelLoader:
        limit = self._ctx.settings.load_timeout
        return ModelLoader(self._components.store, self._components.changes, limit)

    def _views(self, request: web.Request) -> ModelViews:
        return ModelViews(self._components.store, full=caller(request).may("admin"))

    async def index(self, request: web.Request) -> web.Response:
        """Answer a part of the models."""
        shown, rows = await finish(self._views(request).page(page_of(request)))
        models = [ModelView(**each) for each in shown]
        listed = ModelList(models=models, total=rows.total, next_cursor=rows.next_cursor)
        return self._ctx.http.respond(listed)

    async def one(self, request: web.Request) -> web.Response:
        """Answer one model, with its metadata from its Tritons."""
        check_query(request, TRITON)
        look = self._views(request).one(request.match_info["identity"], files=True)
        shown, revision = await finish(look)
        only = request.query.get("triton_id")
        if only is not None:
            only = (await finish(self._components.tritons.one(only)))["name"]
        config = await self._config(shown["name"], shown, only)
        return tagged(self._ctx, ModelDetail(**shown, config=config), revision)

    async def change(self, request: web.Request) -> web.Response:
        """Describe a model."""
        identity = request.match_info["identity"]
        async with self._ctx.http.read_json(request, ModelChange) as requested:
            tags = expected(request, requested.version)
            row = await finish(self._models.describe(identity, requested.description, tags))
        self._note(request, "described the model", row["name"])
        shown, revision = await finish(self._views(request).one(str(row["id"])))
        return tagged(self._ctx, ChangedModel(**shown), revision)

    async def remove(self, request: web.Request) -> web.Response:
        """Unload a model and remove it."""
        force = flag(request, "force")
        row = await finish(self._models.one(request.match_info["identity"]))
        check_revision(row, expected(request))
        await finish(self._models.check_free(str(row["id"]), force=force))
        identity, stored = str(row["id"]), self._noting(request, "unloads", row)
        outcome = await self._loading.unload(identity, None, expected(request), stored)
        failed = [each for each in outcome.done.tritons if each.status == "failed"]
        if failed and not force:
            return self._answer(request, row, outcome, "unloaded")
        await finish(self._models.remove(identity, force=force))
        self._note(request, "removed the model", row["name"])
        return self._ctx.http.respond(Status())

    async def load(self, request: web.Request) -> web.Response:
        """Load a model."""
        requested = await optional_json(self._ctx, request, LoadRequest)
        row = await finish(self._models.one(request.match_info["identity"]))
        versions = (
            None if requested.versions is UNSET else [int(each) for each in requested.versions]
        )
        triton, tags = _triton(request, requested), expected(request)
        stored = self._noting(request, "loads", row)
        outcome = await self._loading.load(str(row["id"]), triton, versions, tags, stored)
        return self._answer(request, row, outcome, "loaded")

    async def unload(self, request: web.Request) -> web.Response:
        """Unload a model."""
        requested = await optional_json(self._ctx, request, LoadRequest)
        if requested.versions is not UNSET:
            raise InvalidParams(
                "versions: a model is unloaded as a whole; to keep some versions, load only those"
            )
        row = await finish(self._models.one(request.match_info["identity"]))
        triton, tags = _triton(request, requested), expected(request)
        stored = self._noting(request, "unloads", row)
        outcome = await self._loading.unload(str(row["id"]), triton, tags, stored)
        return self._answer(request, row, outcome, "unloaded")

    async def roll_back(self, request: web.Request) -> web.Response:
        """Load the version before the newest that is wanted."""
        row = await finish(self._models.one(request.match_info["identity"]))
        stored = self._noting(request, "rolls back", row)
        outcome = await self._loading.roll_back(str(row["id"]), expected(request), stored)
        return self._answer(request, row, outcome, "rolled back")

    def _answer(
        self, request: web.Request, row: sa.RowMapping, outcome: LoadOutcome, what: str
    ) -> web.Response:
        """Answer the results: 502 where it is not done everywhere."""
        full = caller(request).may("admin")
        refused = refusal(self._ctx, row["name"], outcome, what, full=full)
        done = LoadResponse(status="ok", tritons=results(outcome, full=full))
        return refused or tagged(self._ctx, done, outcome.revision)

    async def _config(self, model: str, shown: dict[str, Any], only: str | None) -> dict[str, Any]:
        """Return a model's metadata from the Tritons that serve it, or from one of them."""
        views = [each for each in shown["tritons"] if each.versions and only in {None, each.name}]

        async def metadata_of(name: str, host: str, port: str) -> Any:
            client = TritonClient(self._ctx, Address(name, host, int(port)))
            try:
                return await client.metadata(model)
            except MataError as error:
                return {"error": error.detail}

        found = await asyncio.gather(
            *(metadata_of(each.name, each.ip, each.port) for each in views)
        )
        return {f"{each.ip}:{each.port}": one for each, one in zip(views, found, strict=True)}

    def _noting(self, request: web.Request, what: str, row: sa.RowMapping) -> Callable[[], None]:
        """Return what notes a request in the log, once it is stored and not refused."""
        return lambda: self._note(request, f"{what} the model", row["name"])


def _triton(request: web.Request, requested: LoadRequest) -> str | None:
    check_query(request, TRITON)  # of a misspelt one all would be meant
    given = requested.triton_id
    if given is None:
        return request.query.get("triton_id")
    return str(given)
