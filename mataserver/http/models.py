"""The models: list, one, warm up, unload, pin, remove."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from mataserver.errors import InvalidParams, NotFound
from mataserver.http import codec, examples
from mataserver.http.request_credentials import check_query
from mataserver.http.routing import ROUTE, Body, Route, StatelessService
from mataserver.results import ModelDetail, ModelInfo

if TYPE_CHECKING:
    from aiohttp import web

    from mataserver.contract.service import Context
    from mataserver.serving.models import ServedModels

_INCLUDE = {
    "include": (
        Literal["params"],
        False,
        "With `params` the answer has the JSON Schema of the model's parameters too.",
    )
}


class ModelBody(Struct):
    """``POST /v1/models/warmup``, ``…/pin`` and ``…/unpin``."""

    model: codec.ModelName


class UnloadBody(ModelBody):
    """``POST /v1/models/unload``. ``if_loading``: only cancel its load."""

    if_loading: bool = False


class ModelStatus(Struct):
    """The new state of a model."""

    status: str
    model: str


class ModelsService(StatelessService):
    """The service of the models."""

    def __init__(self, ctx: Context, models: ServedModels) -> None:
        self._http = ctx.http
        self._models = models

    def routes(self) -> list[Route]:
        """Return the routes; fixed paths come before the greedy one."""
        return _routes(self)

    async def list_models(self, request: web.Request) -> web.Response:
        """Answer ``GET /v1/models``."""
        check_query(request, request[ROUTE].parameters)
        return codec.respond(self._models.list())

    async def get_model(self, request: web.Request) -> web.Response:
        """Answer ``GET /v1/models/{model_id}``."""
        name = request.match_info["model_id"]
        try:
            info = self._models.info(name)
        except NotFound:  # without a suggestion: the API's document has this sentence word by word
            raise NotFound(f"Model not found: {name[:200]}") from None
        check_query(request, request[ROUTE].parameters)
        wanted = _includes_params(request)
        return codec.respond(self._models.detail(name) if wanted else info)

    async def warmup(self, request: web.Request) -> web.Response:
        """Answer ``POST /v1/models/warmup``."""
        name = await self._model_of(request)
        await self._models.load(name)
        return codec.respond(ModelStatus("ready", name))

    async def unload(self, request: web.Request) -> web.Response:
        """Answer ``POST /v1/models/unload``."""
        async with self._http.read_json(request, UnloadBody) as asked:
            name, only_loading = asked.model, asked.if_loading
        if await self._models.unload(name, only_loading=only_loading):
            return codec.respond(ModelStatus("unloaded", name))
        stays = only_loading and self._models.info(name).loaded_at is not None
        return codec.respond(ModelStatus("ready" if stays else "not_loaded", name))

    async def pin(self, request: web.Request) -> web.Response:
        """Answer ``POST /v1/models/pin``."""
        name = await self._model_of(request)
        self._models.pin(name)
        return codec.respond(ModelStatus("pinned", name))

    async def unpin(self, request: web.Request) -> web.Response:
        """Answer ``POST /v1/models/unpin``."""
        name = await self._model_of(request)
        done = self._models.unpin(name)
        return codec.respond(ModelStatus("unpinned" if done else "not_pinned", name))

    async def _model_of(self, request: web.Request) -> str:
        async with self._http.read_json(request, ModelBody) as asked:
            return asked.model

    async def remove(self, request: web.Request) -> web.Response:
        """Answer ``DELETE /v1/models/{model_id}``."""
        name = request.match_info["model_id"]
        await self._models.remove(name)
        return codec.respond(ModelStatus("removed", name))


def _routes(api: ModelsService) -> list[Route]:
    info, done = (Body(codec.JSON, ModelDetail),), (Body(codec.JSON, ModelStatus),)
    one = (Body(codec.JSON, ModelBody, examples.NAMED),)
    unloaded = (Body(codec.JSON, UnloadBody, examples.NAMED),)
    body_errors = (400, 408, 413, 415, 422, 500, 503)
    return [
        Route("GET", "/v1/models", api.list_models, "List the installed models", "models",
              response=(Body(codec.JSON, list[ModelInfo]),), errors=(422,),
              needs="models:read"),
        Route("POST", "/v1/models/warmup", api.warmup, "Load a model into memory", "models",
              request=one, response=done, errors=(*body_errors, 404, 507), needs="models:write"),
        Route("POST", "/v1/models/unload", api.unload, "Unload a model from memory", "models",
              request=unloaded, response=done, errors=(*body_errors, 404), needs="models:write"),
        Route("POST", "/v1/models/pin", api.pin, "Keep a model from being evicted", "models",
              request=one, response=done, errors=(*body_errors, 404), needs="models:write"),
        Route("POST", "/v1/models/unpin", api.unpin, "Let a model be evicted again", "models",
              request=one, response=done, errors=(*body_errors, 404, 409), needs="models:write"),
        Route("GET", "/v1/models/{model_id:.+}", api.get_model, "One model", "models",
              response=info, parameters=_INCLUDE, errors=(404, 422, 503),
              needs="models:read"),
        Route("DELETE", "/v1/models/{model_id:.+}", api.remove, "Remove a model", "models",
              response=done, errors=(404, 409, 500), needs="models:write"),
    ]  # fmt: skip


def _includes_params(request: web.Request) -> bool:
    """Whether a model's parameters are requested. Raises ``InvalidParams`` for other values."""
    wanted = request.query.get("include")
    if wanted not in {None, "params"}:
        raise InvalidParams("include: must be params")
    return wanted is not None
