"""The routes of ``/v1/cameras``: open one, list them, their pictures, their results, close one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import web
from msgspec import Struct

from mataserver import PRINCIPAL, Body, NotFound, Route, check_query
from mataserver_cameras.settings import Address, ModelName, Rate

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mataserver import CameraInfo, Context, SessionSource, StreamSession

JSON, JPEG = "application/json", "image/jpeg"
EXAMPLE = {"model": "opencv-qr", "source": "/dev/video0", "fps": 5}
_ONE = "/v1/cameras/{camera_id}"


class CameraBody(Struct, forbid_unknown_fields=True):
    """``POST /v1/cameras``."""

    model: ModelName
    source: Address
    task: str | None = None
    params: dict[str, Any] | None = None
    fps: Rate | None = None


class Camera(Struct):
    """One camera; ``source`` without user, password and path, ``created_at`` in Unix seconds.

    ``configured`` ones stand in the configuration: they cannot be closed. ``ws_url`` is where its
    results are streamed.
    """

    camera_id: str
    model: str
    task: str
    source: str
    state: str
    problem: str | None
    fps: float | None
    always: bool
    configured: bool
    viewers: int
    reconnects: int
    damaged: int
    created_at: float
    frames: int
    results: int
    dropped: int
    ws_url: str


class CameraRoutes:
    """The handlers. A camera is a session with a source, whoever named it."""

    def __init__(
        self,
        ctx: Context,
        named: Callable[[str], Awaitable[SessionSource]],
        position: Callable[[str], int],
    ) -> None:
        self._ctx = ctx
        self._named = named
        self._position = position

    def routes(self) -> list[Route]:
        """Return the routes."""
        one = (Body(JSON, Camera),)
        return [
            Route("POST", "/v1/cameras", self._open, "Open a camera", "cameras",
                  request=(Body(JSON, CameraBody, EXAMPLE),), response=one, status=201,
                  errors=(400, 404, 408, 413, 415, 422, 500, 503, 507), needs="infer"),
            Route("GET", "/v1/cameras", self._list, "List the cameras", "cameras",
                  response=(Body(JSON, list[Camera]),), errors=(422, 503), needs="infer",
                  held="*"),
            Route("GET", _ONE, self._one, "One camera", "cameras",
                  response=one, errors=(404, 503), needs="infer", held="sessions:camera_id"),
            Route("DELETE", _ONE, self._close, "Close a camera", "cameras",
                  status=204, errors=(404, 409, 503), needs="infer", held="sessions:camera_id"),
            Route("GET", f"{_ONE}/picture", self._picture,
                  "The newest frame with what was found in it", "cameras",
                  response=(Body(JPEG),), errors=(404, 500, 503, 507), needs="infer",
                  held="sessions:camera_id",
                  answer_headers={"X-Frame-Id": "The number of the frame."}),
            Route("GET", f"{_ONE}/stream", self._stream, "Stream the results", "cameras",
                  public=True, documented=False, socket=True, held="sessions:camera_id"),
        ]  # fmt: skip

    async def _open(self, request: web.Request) -> web.Response:
        async with self._ctx.http.read_json(request, CameraBody) as asked:
            pass  # what follows may load a model: its bytes are given back before
        self._ctx.check_running()
        source = await self._named(asked.source)
        session = await self._ctx.sessions.create(
            asked.model,
            task=asked.task,
            params=asked.params,
            owner=request[PRINCIPAL],
            source=source,
            fps=asked.fps,
        )
        return self._ctx.http.respond(self._respond(request, *self._camera_of(session)), status=201)

    async def _list(self, request: web.Request) -> web.Response:
        check_query(request, ())
        sessions = self._ctx.sessions.list(request[PRINCIPAL])
        cameras = ((session, self._ctx.sessions.camera(session)) for session in sessions)
        found = [self._respond(request, session, camera) for session, camera in cameras if camera]
        # Those of the configuration open in any order, as each one's model is loaded.
        found.sort(key=lambda camera: self._position(camera.camera_id))
        for others in await self._ctx.held.gather(request, list[Camera]):
            found += others
        return self._ctx.http.respond(found)

    async def _one(self, request: web.Request) -> web.Response:
        return self._ctx.http.respond(self._respond(request, *self._requested_camera(request)))

    async def _picture(self, request: web.Request) -> web.Response:
        session, _ = self._requested_camera(request)
        picture, number = await self._ctx.sessions.picture(session.id)
        headers = {"Content-Type": JPEG, "Cache-Control": "no-store", "X-Frame-Id": str(number)}
        return web.Response(body=picture, headers=headers)

    async def _close(self, request: web.Request) -> web.Response:
        session, _ = self._requested_camera(request)
        await self._ctx.sessions.close(session.id)
        return web.Response(status=204)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        return await self._ctx.sessions.serve(request, request.match_info["camera_id"])

    def _requested_camera(self, request: web.Request) -> tuple[StreamSession, CameraInfo]:
        """Return the camera that a path names. Raises ``NotFound``."""
        name = request.match_info["camera_id"]
        try:
            return self._camera_of(self._ctx.sessions.get(name, request[PRINCIPAL]))
        except NotFound:
            raise NotFound(f"Camera not found: {name[:64]}") from None

    def _camera_of(self, session: StreamSession) -> tuple[StreamSession, CameraInfo]:
        """Return a session with its camera. Raises ``NotFound`` for one without."""
        camera = self._ctx.sessions.camera(session)
        if camera is None:
            raise NotFound(f"{session.id} has no camera")
        return session, camera

    def _respond(self, request: web.Request, session: StreamSession, camera: CameraInfo) -> Camera:
        where = self._ctx.http.url(request, "ws")
        return Camera(
            camera_id=session.id,
            model=session.model,
            task=session.task,
            source=camera.source,
            state=camera.state,
            problem=camera.problem,
            fps=camera.fps,
            always=camera.always,
            configured=session.permanent,
            viewers=camera.viewers,
            reconnects=camera.reconnects,
            damaged=camera.damaged,
            created_at=session.created_at,
            frames=session.frames,
            results=session.results,
            dropped=session.dropped,
            ws_url=f"{where}/v1/cameras/{session.id}/stream",
        )
