"""Streaming sessions: create, list, get, delete, and a camera's newest picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import web
from msgspec import UNSET, Struct, UnsetType

from mataserver.config import CameraSource, Rate
from mataserver.contract.sessions import CameraInfo
from mataserver.errors import InvalidParams
from mataserver.frontends.resource_ids import EVERY_FRONTEND
from mataserver.http import auth, codec, examples
from mataserver.http.request_credentials import check_query
from mataserver.http.routing import Body, Route, StatelessService

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mataserver.contract.service import Context, Service
    from mataserver.contract.sessions import SessionSource
    from mataserver.serving.served_sessions import ServedSessions
    from mataserver.serving.sessions import Session

JPEG = "image/jpeg"
DEPRECATED = "@1795737600"
"""Since when sources should be created through their plugins (RFC 9745): 27 November 2026."""
NO_SOURCE_PLUGIN = (
    "source: no plugin here reads it: for cameras pip install mataserver-cameras"
    " (./plugins/cameras in a checkout)"
)


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


class SessionsService(StatelessService):
    """The sessions' routes."""

    def __init__(
        self, ctx: Context, sessions: ServedSessions, services: Sequence[tuple[str, Service]]
    ) -> None:
        self._ctx = ctx
        self._sessions = sessions
        self._services = services

    def routes(self) -> list[Route]:
        """Return the routes."""
        info, made = (Body(codec.JSON, SessionInfo),), (Body(codec.JSON, SessionCreated),)
        return [
            Route("POST", "/v1/sessions", self._create, "Create a streaming session", "sessions",
                  request=(Body(codec.JSON, SessionBody, examples.SESSION),), response=made,
                  status=201, errors=(400, 404, 408, 413, 415, 422, 500, 503, 507), needs="infer",
                  answer_headers={"Deprecation": "The session has a camera: see `/v1/cameras`."}),
            Route("GET", "/v1/sessions", self._list, "List the sessions", "sessions",
                  response=(Body(codec.JSON, list[SessionInfo]),), errors=(422, 503), needs="infer",
                  held=EVERY_FRONTEND),
            Route("GET", "/v1/sessions/{session_id}", self._get, "One session", "sessions",
                  response=info, errors=(404, 503), needs="infer", held="session_id"),
            Route("DELETE", "/v1/sessions/{session_id}", self._delete, "Close a session",
                  "sessions", status=204, errors=(404, 409, 503), needs="infer",
                  held="session_id"),
            Route("GET", "/v1/sessions/{session_id}/snapshot", self._snapshot,
                  "The newest frame of a camera with what was found in it", "sessions",
                  response=(Body(JPEG),), errors=(404, 500, 503, 507), needs="infer",
                  held="session_id", answer_headers={"X-Frame-Id": "The number of the frame."}),
        ]  # fmt: skip

    async def _create(self, request: web.Request) -> web.Response:
        codec.require_json(request)
        where = self._ctx.http.url(request, "ws")
        async with self._ctx.http.read_json(request, SessionBody) as asked:
            pass  # the body's bytes are released before a model may be loaded
        self._ctx.check_running()
        source = await self._source(asked)
        session = await self._sessions.create(
            asked.model,
            task=asked.task,
            params=asked.params,
            owner=auth.caller(request),
            source=source,
            fps=asked.fps,
        )
        session.stream = asked.stream
        url = f"{where}/v1/stream/{session.id}"
        response = codec.respond(SessionCreated(session.id, url), status=201)
        if source is not None:
            response.headers["Deprecation"] = DEPRECATED
        return response

    async def _list(self, request: web.Request) -> web.Response:
        check_query(request, ())
        found = [self._info(each) for each in self._sessions.list(auth.caller(request))]
        for others in await self._ctx.held.gather(request, list[SessionInfo]):
            found += others
        return codec.respond(found)

    async def _get(self, request: web.Request) -> web.Response:
        return codec.respond(self._info(self._session(request)))

    async def _snapshot(self, request: web.Request) -> web.Response:
        picture, number = await self._sessions.picture(
            request.match_info["session_id"], auth.caller(request)
        )
        headers = {"Content-Type": JPEG, "Cache-Control": "no-store", "X-Frame-Id": str(number)}
        return web.Response(body=picture, headers=headers)

    async def _delete(self, request: web.Request) -> web.Response:
        await self._sessions.close(self._session(request).id)
        return web.Response(status=204)

    def _session(self, request: web.Request) -> Session:
        return self._sessions.get(request.match_info["session_id"], auth.caller(request))

    async def _source(self, asked: SessionBody) -> SessionSource | None:
        """Return the requested source of frames, from the first service that accepts it.

        A service that rejects it, as unsupported or not allowed, leaves it to the others.
        """
        if asked.source is None:
            if asked.fps is not None:
                raise InvalidParams("fps: only a session with a source takes it")
            return None
        if asked.stream:
            raise InvalidParams("stream: a session with a source sends whole results alone")
        rejection: InvalidParams | None = None
        for _, service in self._services:
            named = getattr(service, "session_source", None)
            try:
                found: SessionSource | None = named and await named(asked.source, asked.fps)
            except InvalidParams as error:
                rejection = error
                continue
            if found is not None:
                return found
        raise rejection or InvalidParams(NO_SOURCE_PLUGIN)

    def _info(self, session: Session) -> SessionInfo:
        camera = self._sessions.camera(session)
        return SessionInfo(
            session.id,
            session.model,
            session.task,
            session.created_at,
            bool(session.connections),
            session.frames,
            session.results,
            session.dropped,
            UNSET if camera is None else camera,
        )
