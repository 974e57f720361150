"""The models: list, one, pull, warm up, unload, pin, remove."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from mataserver.contract.routes import LastEvent
from mataserver.errors import BadRequest, InvalidParams, Unavailable
from mataserver.http import codec, events, examples
from mataserver.http.request_credentials import check_query
from mataserver.http.routing import ROUTE, Body, Route, StatelessService
from mataserver.results import ModelDetail, ModelInfo
from mataserver.sources import Progress, QueuePosition

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from aiohttp import web

    from mataserver.contract.service import Context
    from mataserver.serving.models import ServedModels
    from mataserver.sources import Step

_INCLUDE = {
    "include": (
        Literal["params"],
        False,
        "With `params` the answer has the JSON Schema of the model's parameters too.",
    )
}


class PullBody(Struct):
    """``POST /v1/models/pull``."""

    model: codec.ModelName
    task: Annotated[str, Meta(max_length=64)]


class ModelBody(Struct):
    """``POST /v1/models/warmup``, ``…/unload``, ``…/pin`` and ``…/unpin``."""

    model: codec.ModelName


class ModelStatus(Struct):
    """What was done to a model, and after a pull what a person should know."""

    status: str
    model: str
    warnings: list[str] | UnsetType = UNSET


class ModelsService(StatelessService):
    """The service of the models; ``pulls`` are those in progress, cancelled at shutdown."""

    def __init__(self, ctx: Context, models: ServedModels, pulls: set[asyncio.Task[Any]]) -> None:
        self._http = ctx.http
        self._patience = ctx.server.unread_timeout
        self._models = models
        self._pulls = pulls

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
        info = self._models.info(name)
        check_query(request, request[ROUTE].parameters)
        wanted = _includes_params(request)
        return codec.respond(self._models.detail(name) if wanted else info)

    async def pull(self, request: web.Request) -> web.StreamResponse:
        """Answer ``POST /v1/models/pull``, at once or with events."""
        async with self._http.read_json(request, PullBody) as asked:
            model, wanted = asked.model, asked.task
        if "://" in model or model.startswith((".", "/", "~", "\\")):
            raise BadRequest("model must be a hub id or a backend's name, not a URL or a path")
        steps: asyncio.Queue[Step | None] = asyncio.Queue()
        task = asyncio.create_task(self._models.pull(model, wanted, steps.put_nowait))
        self._pulls.add(task)
        task.add_done_callback(self._forget_pull)
        if events.is_requested(request):
            task.add_done_callback(lambda _: steps.put_nowait(None))
            told = _pull_events(model, task, steps)
            try:
                return await events.send(
                    request, told, events.error_event, self._patience, status=202
                )
            finally:
                task.cancel()  # a client that watches a pull and disconnects cancels it
        # Without events, a client that disconnects does not cancel the download.
        return codec.respond(_status(model, await _wait_for_pull(task)), status=202)

    def _forget_pull(self, task: asyncio.Task[Sequence[str]]) -> None:
        self._pulls.discard(task)
        if not task.cancelled():
            task.exception()  # marks it as retrieved: the client may have disconnected

    async def warmup(self, request: web.Request) -> web.Response:
        """Answer ``POST /v1/models/warmup``."""
        name = await self._model_of(request)
        await self._models.load(name)
        return codec.respond(ModelStatus("ready", name))

    async def unload(self, request: web.Request) -> web.Response:
        """Answer ``POST /v1/models/unload``."""
        name = await self._model_of(request)
        done = await self._models.unload(name)
        return codec.respond(ModelStatus("unloaded" if done else "not_loaded", name))

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
        """Return the model named in the body."""
        async with self._http.read_json(request, ModelBody) as asked:
            return asked.model

    async def remove(self, request: web.Request) -> web.Response:
        """Answer ``DELETE /v1/models/{model_id}``."""
        name = request.match_info["model_id"]
        await self._models.remove(name)
        return codec.respond(ModelStatus("removed", name))


def _routes(api: ModelsService) -> list[Route]:
    info, done = (Body(codec.JSON, ModelDetail),), (Body(codec.JSON, ModelStatus),)
    pull = (Body(codec.JSON, PullBody, examples.PULL),)
    one = (Body(codec.JSON, ModelBody, examples.NAMED),)
    pulled = (*done, Body(events.CONTENT_TYPE))
    body_errors = (400, 408, 413, 415, 422, 500, 503)
    return [
        Route("GET", "/v1/models", api.list_models, "List the installed models", "models",
              response=(Body(codec.JSON, list[ModelInfo]),), errors=(422,),
              needs="models:read"),
        Route("POST", "/v1/models/pull", api.pull, "Download or install a model", "models",
              request=pull, response=pulled, status=202, errors=(*body_errors, 409),
              needs="models:write"),
        Route("POST", "/v1/models/warmup", api.warmup, "Load a model into memory", "models",
              request=one, response=done, errors=(*body_errors, 404, 507), needs="models:write"),
        Route("POST", "/v1/models/unload", api.unload, "Unload a model from memory", "models",
              request=one, response=done, errors=(*body_errors, 404), needs="models:write"),
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


async def _pull_events(
    model: str, task: asyncio.Task[Sequence[str]], steps: asyncio.Queue[Step | None]
) -> AsyncGenerator[bytes]:
    """Yield the events of a pull, without pip's output, which may contain hosts and paths."""
    while (step := await steps.get()) is not None:
        if isinstance(step, QueuePosition):
            yield events.event("waiting", {"place": step.place})
        elif isinstance(step, Progress):
            yield events.event("progress", msgspec.structs.asdict(step))
    yield LastEvent(events.event("result", _status(model, await _wait_for_pull(task))))


async def _wait_for_pull(task: asyncio.Task[Sequence[str]]) -> Sequence[str]:
    """Wait for a pull without cancelling it if the caller is cancelled; return its warnings."""
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if task.cancelled():
            raise Unavailable("The server is shutting down", retry_after=5) from None
        raise


def _status(model: str, warnings: Sequence[str]) -> ModelStatus:
    return ModelStatus("pulled", model, list(warnings) or UNSET)


def _includes_params(request: web.Request) -> bool:
    """Whether a model's parameters are requested. Raises ``InvalidParams`` for other values."""
    wanted = request.query.get("include")
    if wanted not in {None, "params"}:
        raise InvalidParams("include: must be params")
    return wanted is not None
