"""The Open Inference Protocol over REST: health, metadata, inference, the model repository.

The routes are those of Triton and KServe. A model's name may hold slashes, so fixed paths and those
that name a version come before the greedy ones.
"""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, Struct, UnsetType

from mataserver import (
    EXAMPLE_IMAGE,
    BadRequest,
    Body,
    MataError,
    NotFound,
    Route,
    check_charset,
    check_json,
)
from mataserver_oip import rest
from mataserver_oip.problem import InferenceProblem
from mataserver_oip.server import EXTENSIONS, NAME

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mataserver import Context
    from mataserver_oip.server import InferenceServer

JSON = "application/json"
BINARY = "application/octet-stream"
UNSAID = frozenset({"", BINARY, "application/x-www-form-urlencoded"})
"""Content types that tell nothing, the last one because curl sends it unasked. A web page may send
such a body to another origin without asking first."""
TENSORS = {
    "inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [EXAMPLE_IMAGE]}],
    "parameters": {"confidence": 0.5},
}
INDEX = {"ready": False}
REPOSITORY: dict[str, Any] = {"parameters": {}}
NOT_READY = 400
"""By the protocol 200 says "ready", and a status of 4xx that it is not; Triton answers 400."""
_MODEL = "/v2/models/{model_id:.+}"
_VERSIONS = ("/versions/{version}", "")
_ABSENT = {
    "config": "model_configuration: GET /v2/models/{model} tells a model's tensors",
    "stats": "statistics: GET /metrics counts each model's inferences and their times",
}
_HEADERS = {
    rest.LENGTH_HEADER: (
        Annotated[int, Meta(ge=0)],
        False,
        "Length of the JSON, where the bytes of tensors follow it.",
    )
}


class Live(Struct):
    """``GET /v2/health/live``."""

    live: bool


class ServerReady(Struct):
    """``GET /v2/health/ready``; with 400 ``error`` says what is waited for."""

    ready: bool
    error: str | UnsetType = UNSET


class ModelReady(Struct):
    """``GET /v2/models/{model_id}/ready``."""

    name: str
    ready: bool
    error: str | UnsetType = UNSET


class ServerMetadata(Struct):
    """``GET /v2``."""

    name: str
    version: str
    extensions: list[str]


class IndexEntry(Struct):
    """One model of the index; ``reason`` says why it is not ready."""

    name: str
    version: str
    state: str
    reason: str


class Done(Struct):
    """What a load or an unload answers: nothing."""


def _route(method: str, path: str, handler: Any, summary: str, answer: Any, **more: Any) -> Route:
    response = (Body(JSON, answer), *more.pop("also", ()))
    return Route(
        method, path, handler, summary, "inference protocol",
        response=response, problem=InferenceProblem, **more,
    )  # fmt: skip


def _server_routes(api: RestRoutes) -> list[Route]:
    errors, repository = (400, 404, 408, 413, 415, 500, 503), "/v2/repository/models/{model_id:.+}"
    request = (Body(JSON, rest.RepositoryBody, REPOSITORY),)
    return [
        _route("GET", "/v2/health/live", api.live, "Whether the server runs", Live, public=True),
        _route("GET", "/v2/health/ready", api.server_ready, "Whether it can serve requests now",
               ServerReady, public=True, errors=(NOT_READY,)),
        _route("GET", "/v2", api.server, "The server and the extensions it knows", ServerMetadata,
               needs="models:read"),
        _route("POST", "/v2/repository/index", api.index, "Every model and its state",
               list[IndexEntry], request=(Body(JSON, rest.IndexBody, INDEX),),
               optional=True, errors=(400, 408, 413, 415, 500, 503),
               needs="models:read"),
        _route("POST", f"{repository}/load", api.load, "Load a model into memory", Done,
               request=request, optional=True, errors=(*errors, 507),
               needs="models:write"),
        _route("POST", f"{repository}/unload", api.unload, "Unload a model from memory", Done,
               request=request, optional=True, errors=errors, needs="models:write"),
    ]  # fmt: skip


def _model_routes(api: RestRoutes) -> list[Route]:
    found = []
    tensors = (Body(JSON, rest.InferBody, TENSORS), Body(BINARY))
    for version in _VERSIONS:
        path = f"{_MODEL}{version}"
        of = " of a version" if version else ""
        found += [
            _route("GET", f"{path}/ready", api.model_ready, f"Whether a model{of} is in memory",
                   ModelReady, errors=(NOT_READY, 404), needs="models:read"),
            _route("POST", f"{path}/infer", api.infer, f"Infer with a model{of} on tensors",
                   rest.InferAnswer, also=(Body(BINARY),), request=tensors, headers=_HEADERS,
                   errors=(400, 404, 408, 413, 415, 500, 503, 507), needs="infer",
                   answer_headers={rest.LENGTH_HEADER: "As of a request."}),
        ]  # fmt: skip
    for version in _VERSIONS:
        of = " of a version" if version else ""
        found.append(
            _route("GET", f"{_MODEL}{version}", api.model, f"What a model{of} takes and gives",
                   rest.ModelMetadata, errors=(404,), needs="models:read")
        )  # fmt: skip
    return found


class RestRoutes:
    """The protocol over REST."""

    def __init__(self, ctx: Context, server: InferenceServer) -> None:
        self._ctx = ctx
        self._http = ctx.http
        self._server = server

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [*_server_routes(self), *_model_routes(self)]

    async def live(self, _request: web.Request) -> web.Response:
        """Answer ``GET /v2/health/live``."""
        return self._http.respond(Live(live=True))

    async def server_ready(self, _request: web.Request) -> web.Response:
        """Answer ``GET /v2/health/ready``."""
        found = self._ctx.ready()
        if found:
            answer = ServerReady(ready=False, error=_sentence(found))
            return self._http.respond(answer, status=NOT_READY)
        return self._http.respond(ServerReady(ready=True))

    async def server(self, _request: web.Request) -> web.Response:
        """Answer ``GET /v2``."""
        return self._http.respond(ServerMetadata(NAME, self._ctx.version, list(EXTENSIONS)))

    async def model(self, request: web.Request) -> web.Response:
        """Answer ``GET /v2/models/{model_id}``."""
        name, version = _named(request)
        try:
            return self._http.respond(rest.metadata(self._server.metadata(name, version)))
        except NotFound:
            self._refuse_extension(name)
            raise

    def _refuse_extension(self, path: str) -> None:
        """Say which extension is missing, where a path ends like those of one."""
        name, _, what = path.rpartition("/")
        if what in _ABSENT:
            name, _, version = name.partition("/versions/")
            if name:  # Triton's clients ask for the statistics of all models, too
                self._server.metadata(name, version)
            raise NotFound(f"This server does not offer the extension {_ABSENT[what]}")

    async def model_ready(self, request: web.Request) -> web.Response:
        """Answer ``GET /v2/models/{model_id}/ready``."""
        name, version = _named(request)
        if self._server.ready(name, version):
            return self._http.respond(ModelReady(name, ready=True))
        error = f"{name} is not in memory; an inference loads it"
        return self._http.respond(ModelReady(name, ready=False, error=error), status=NOT_READY)

    async def infer(self, request: web.Request) -> web.Response:
        """Answer ``POST /v2/models/{model_id}/infer``."""
        self._ctx.check_running()
        self._check_type(request)
        length = _header_length(request)
        name, version = _named(request)
        most = self._ctx.server.queue_limit
        async with self._http.read_body(request) as data:
            read = functools.partial(
                rest.decode, header_length=length, model=name, version=version, most=most
            )
            asked, binary, names = await self._http.decode(data, read)
            del data
            if names:
                self._http.warn_of_unknown(request, names, rest.InferBody)
            inference = self._server.infer(asked)
            del asked
            answer = await inference
        body, length = rest.encode(answer, binary)
        if length is None:
            return web.Response(body=body, content_type=JSON)
        headers = {rest.LENGTH_HEADER: str(length)}
        return web.Response(body=body, content_type=BINARY, headers=headers)

    def _check_type(self, request: web.Request) -> None:
        """Take what clients of the protocol send, which is often of no type at all.

        Raises 415 for what a page sends anywhere and for JSON that is said to be no UTF-8, and 403
        for what has no type and comes from a page.
        """
        kind = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind.startswith(("text/", "multipart/")):
            raise MataError(f"Content-Type must be {JSON} or {BINARY}", status=415)
        check_charset(request)
        if kind in UNSAID:
            self._http.check_origin(request)

    async def index(self, request: web.Request) -> web.Response:
        """Answer ``POST /v2/repository/index``."""
        asked = await self._read(request, rest.IndexBody)
        found = await asyncio.to_thread(self._server.index, ready=bool(asked.ready))
        return self._http.respond([IndexEntry(e.name, e.version, e.state, e.reason) for e in found])

    async def load(self, request: web.Request) -> web.Response:
        """Answer ``POST /v2/repository/models/{model_id}/load``."""
        asked = await self._read(request, rest.RepositoryBody)
        if asked.parameters:
            raise BadRequest("parameters: a model's configuration is not set over this protocol")
        await self._server.load(request.match_info["model_id"])
        return self._http.respond(Done())

    async def unload(self, request: web.Request) -> web.Response:
        """Answer ``POST /v2/repository/models/{model_id}/unload``."""
        asked = await self._read(request, rest.RepositoryBody)
        given = msgspec.json.encode(asked.parameters or {})
        self._http.warn_of_unknown(request, given, rest.UnloadParameters)
        await self._server.unload(request.match_info["model_id"])
        return self._http.respond(Done())

    async def _read(self, request: web.Request, kind: Any) -> Any:
        """Read a body that may be left out."""
        self._check_type(request)
        async with self._http.read_body(request) as data:
            body = data or b"{}"
            check_json(body)
            asked = rest.parse(body, kind)
            self._http.warn_of_unknown(request, body, kind)
            return asked


def _sentence(found: Mapping[str, str]) -> str:
    """Return what is waited for in words."""
    return "Not ready: " + "; ".join(f"{name}: {why}" for name, why in found.items())


def _named(request: web.Request) -> tuple[str, str]:
    return request.match_info["model_id"], request.match_info.get("version", "")


def _header_length(request: web.Request) -> int | None:
    text = request.headers.get(rest.LENGTH_HEADER)
    # Python reads no number of thousands of digits.
    if text is not None and not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise BadRequest(f"{rest.LENGTH_HEADER} must be a number of bytes")
    return None if text is None else int(text)
