"""Streaming sessions: create, list, one, delete."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web
from msgspec import Struct

from mataserver import params
from mataserver.errors import BadRequest, InvalidParams, Unavailable
from mataserver.http import codec
from mataserver.http.routing import Body, Route

if TYPE_CHECKING:
    from mataserver.http.routing import State
    from mataserver.sessions import Session
    from mataserver.slots import Recipe

TRACKED = "detect"
TRACK = "track"
_HOST = re.compile(r"[\w.~\[\]:-]{1,255}", re.ASCII)


class SessionBody(Struct):
    """``POST /v1/sessions``."""

    model: codec.ModelName
    task: str | None = None
    params: dict[str, Any] | None = None
    stream: bool = False


class SessionCreated(Struct):
    """Where to stream to."""

    session_id: str
    ws_url: str


class SessionInfo(Struct):
    """One session; ``created_at`` in Unix seconds, ``dropped`` frames replaced by newer ones."""

    session_id: str
    model: str
    task: str
    created_at: float
    connected: bool
    frames: int
    results: int
    dropped: int


def routes(state: State) -> list[Route]:
    """Return this module's routes."""
    api = _Sessions(state)
    info, made = (Body(codec.JSON, SessionInfo),), (Body(codec.JSON, SessionCreated),)
    return [
        Route("POST", "/v1/sessions", api.create, "Create a streaming session", "sessions",
              request=(Body(codec.JSON, SessionBody),), response=made,
              status=201, errors=(400, 404, 408, 413, 415, 422, 500, 503, 507)),
        Route("GET", "/v1/sessions", api.list, "List the sessions", "sessions",
              response=(Body(codec.JSON, list[SessionInfo]),)),
        Route("GET", "/v1/sessions/{session_id}", api.one, "One session", "sessions",
              response=info, errors=(404,)),
        Route("DELETE", "/v1/sessions/{session_id}", api.delete, "Close a session", "sessions",
              status=204, errors=(404,)),
    ]  # fmt: skip


class _Sessions:
    def __init__(self, state: State) -> None:
        self._state = state

    async def create(self, request: web.Request) -> web.Response:
        codec.require_json(request)
        if not _HOST.fullmatch(request.host):
            raise BadRequest("The Host header is not a host name")
        async with codec.body(request, self._state) as data:
            asked = codec.decode_json(data, SessionBody)
        if self._state.draining:
            raise Unavailable("The server is shutting down", retry_after=5)
        recipe = self._recipe(asked)
        parsed = params.parse(
            asked.params or {},
            recipe.backend.params,
            defaults=recipe.settings.params,
            max_tokens=self._state.settings.max_tokens,
        )
        session = await self._state.sessions.create(
            asked.model, recipe, msgspec.msgpack.encode(parsed), stream=asked.stream
        )
        url = f"{self._scheme(request)}://{request.host}/v1/stream/{session.id}"
        return codec.respond(SessionCreated(session.id, url), status=201)

    async def list(self, _request: web.Request) -> web.Response:
        return codec.respond([_info(session) for session in self._state.sessions.all()])

    async def one(self, request: web.Request) -> web.Response:
        return codec.respond(_info(self._state.sessions.get(request.match_info["session_id"])))

    async def delete(self, request: web.Request) -> web.Response:
        await self._state.sessions.delete(request.match_info["session_id"])
        return web.Response(status=204)

    def _recipe(self, asked: SessionBody) -> Recipe:
        """Return what to load; a task may only be the model's own, or track on a detector."""
        own = self._state.catalog.entry(asked.model).task
        wanted = asked.task or own
        if wanted != own:
            allowed = own == TRACKED and wanted == TRACK
            if not allowed or not self._state.catalog.serves(asked.model, wanted):
                raise InvalidParams(f"task: {asked.model} serves {own}, not {wanted[:40]!r}")
        return self._state.catalog.recipe(asked.model, wanted)

    def _scheme(self, request: web.Request) -> str:
        forwarded = request.headers.get("X-Forwarded-Proto", "").split(",")[0].strip().lower()
        if self._state.settings.trust_proxy and forwarded:
            return "wss" if forwarded in {"https", "wss"} else "ws"
        return "wss" if request.secure else "ws"


def _info(session: Session) -> SessionInfo:
    return SessionInfo(
        session.id,
        session.model,
        session.task,
        session.created_at,
        session.connection is not None,
        session.frames,
        session.results,
        session.dropped,
    )
