"""Streaming sessions: create, list, one, delete, and the newest picture of a camera."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import web
from msgspec import UNSET, Struct, UnsetType

from mataserver.config import CameraSource, Rate
from mataserver.errors import InvalidParams, NotFound
from mataserver.http import auth, codec, examples, proxies
from mataserver.http.routing import Body, Route

if TYPE_CHECKING:
    from mataserver.cameras.camera import Camera
    from mataserver.cameras.source import Source
    from mataserver.http.routing import State
    from mataserver.sessions import Session

JPEG = "image/jpeg"


class SessionBody(Struct):
    """``POST /v1/sessions``."""

    model: codec.ModelName
    task: str | None = None
    params: dict[str, Any] | None = None
    stream: bool = False
    source: CameraSource | None = None
    fps: Rate | None = None


class SessionCreated(Struct):
    """Where to stream to."""

    session_id: str
    ws_url: str


class CameraInfo(Struct):
    """A session's camera; ``source`` without user, password and path."""

    source: str
    state: str
    reconnects: int
    viewers: int
    fps: float | None
    always: bool
    problem: str | None


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
    camera: CameraInfo | UnsetType = UNSET


def routes(state: State) -> list[Route]:
    """Return this module's routes."""
    api = _Sessions(state)
    info, made = (Body(codec.JSON, SessionInfo),), (Body(codec.JSON, SessionCreated),)
    return [
        Route("POST", "/v1/sessions", api.create, "Create a streaming session", "sessions",
              request=(Body(codec.JSON, SessionBody, examples.SESSION),), response=made,
              status=201, errors=(400, 404, 408, 413, 415, 422, 500, 503, 507), needs="infer"),
        Route("GET", "/v1/sessions", api.list, "List the sessions", "sessions",
              response=(Body(codec.JSON, list[SessionInfo]),), needs="infer"),
        Route("GET", "/v1/sessions/{session_id}", api.one, "One session", "sessions",
              response=info, errors=(404,), needs="infer"),
        Route("DELETE", "/v1/sessions/{session_id}", api.delete, "Close a session", "sessions",
              status=204, errors=(404, 409), needs="infer"),
        Route("GET", "/v1/sessions/{session_id}/snapshot", api.snapshot,
              "The newest frame of a camera with what was found in it", "sessions",
              response=(Body(JPEG),), errors=(404, 500, 503, 507), needs="infer"),
    ]  # fmt: skip


class _Sessions:
    def __init__(self, state: State) -> None:
        self._state = state

    async def create(self, request: web.Request) -> web.Response:
        codec.require_json(request)
        where = proxies.place(request, trusted=self._state.settings.trust_proxy).url("ws")
        async with codec.body(request, self._state) as data:
            asked = await codec.decoded(self._state, data, codec.json_of(SessionBody))
        self._state.check_running()
        source = await self._source(asked)
        model = self._state.models.of_session(asked.model, asked.task)
        given, owner = model.params(asked.params), auth.caller(request).id
        session = await self._state.sessions.create(model, given, stream=asked.stream, owner=owner)
        if source is not None:
            self._state.cameras.give(session, source, asked.fps)
        url = f"{where}/v1/stream/{session.id}"
        return codec.respond(SessionCreated(session.id, url), status=201)

    async def list(self, request: web.Request) -> web.Response:
        sessions, principal = self._state.sessions.all(), auth.caller(request)
        return codec.respond([self._info(each) for each in sessions if each.seen_by(principal)])

    async def one(self, request: web.Request) -> web.Response:
        return codec.respond(self._info(self._session(request)))

    async def snapshot(self, request: web.Request) -> web.Response:
        session = self._session(request)
        camera = self._state.cameras.of(session)
        if camera is None:
            raise NotFound(f"{session.id} has no camera")
        self._state.sessions.touch(session)
        shot = await camera.newest()
        headers = {
            "Content-Type": JPEG,
            "Cache-Control": "no-store",
            "X-Frame-Id": str(shot.number),
        }
        return web.Response(body=await shot.picture(session.task), headers=headers)

    async def delete(self, request: web.Request) -> web.Response:
        await self._state.sessions.delete(self._session(request).id)
        return web.Response(status=204)

    def _session(self, request: web.Request) -> Session:
        return self._state.sessions.get(request.match_info["session_id"], auth.caller(request))

    async def _source(self, asked: SessionBody) -> Source | None:
        """Return the camera that a client asks for, if it may."""
        if asked.source is None:
            if asked.fps is not None:
                raise InvalidParams("fps: only a session with a source takes it")
            return None
        if asked.stream:
            raise InvalidParams("stream: a session with a source sends whole results alone")
        return await self._state.cameras.permitted(asked.source)

    def _info(self, session: Session) -> SessionInfo:
        camera = self._state.cameras.of(session)
        return SessionInfo(
            session.id,
            session.model,
            session.task,
            session.created_at,
            bool(session.connections),
            session.frames,
            session.results,
            session.dropped,
            UNSET if camera is None else _camera(camera),
        )


def _camera(camera: Camera) -> CameraInfo:
    feed = camera.feed
    return CameraInfo(
        camera.shown,
        feed.state,
        feed.reconnects,
        len(camera.viewers),
        camera.fps,
        camera.always,
        feed.problem,
    )
