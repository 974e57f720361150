"""``/api/v1/video``: turns requests into calls of video sessions."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from mataserver import PRINCIPAL, Body, InvalidParams, Route, Unavailable, check_query
from mataserver_sam.callers import Caller
from mataserver_sam.description import JSON, TAG, api_route
from mataserver_sam.video_requests import (
    AnnotatedVideoRequest,
    Closed,
    FrameResult,
    PromptRequest,
    PromptResult,
    Propagated,
    PropagateRequest,
    Removed,
    Reset,
    SessionId,
    Sessions,
    SessionStatus,
    Started,
    StartRequest,
    UploadForm,
    session_id,
)
from mataserver_sam.video_socket import VideoSocket

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mataserver import Context, Principal, Share
    from mataserver_sam.video_session import Session
    from mataserver_sam.video_sessions import VideoSessions

SESSION = "/api/v1/video/session"
STREAM = "/api/v1/video/ws/propagate"
FORM = "multipart/form-data"
MAX_RESULTS_BYTES = 256_000_000
"""The largest answer of ``propagate``; larger ones must be streamed or split."""


class VideoRoutes:
    """The handlers. The caller enters and exits ``sessions``."""

    def __init__(self, ctx: Context, sessions: VideoSessions) -> None:
        self._read = ctx.http.read_json
        self._budget = ctx.http.budget
        self._form: str = ctx.settings.mask_format
        self._enabled: bool = ctx.settings.video_enabled
        self._max_bytes = round(ctx.settings.max_video_mb * 1e6)
        self._sessions = sessions
        self._stopping = ctx.stopping
        self._held = ctx.held

    def routes(self) -> Iterable[Route]:
        """Return the routes."""
        one = SESSION + "/{session_id}"
        # 409: the session is busy or failed, or an administrator's id is that of several callers.
        gone, failed = (404, 409), (404, 409, 500, 503)
        return [
            api_route("POST", f"{SESSION}/start", self.start, "Open a video", StartRequest, Started,
                      errors=(409,)),
            Route("POST", f"{SESSION}/upload", self.upload, "Open an uploaded video", TAG,
                  request=(Body(FORM, UploadForm), Body("video/mp4")),
                  response=(Body(JSON, Started),),
                  parameters={"session_id": (SessionId, False, "As of `start`.")},
                  errors=(400, 403, 408, 409, 413, 415, 422, 500, 503, 507), needs="infer",
                  max_body=self._max_bytes, body_timeout="idle"),
            Route("GET", one + "/frame/{frame_index:[0-9]{1,9}}", self.frame,
                  "A frame as it is shown", TAG, response=(Body("image/jpeg"),),
                  errors=(400, 404, 409, 422, 500, 503), needs="infer", held="session_id"),
            api_route("POST", f"{one}/prompt", self.prompt, "Add prompts to a frame",
                      PromptRequest, PromptResult, errors=gone),
            replace(api_route("POST", f"{one}/propagate", self.propagate, "Track through a video",
                              PropagateRequest, Propagated, errors=gone), optional=True),
            Route("POST", f"{one}/video", self.video, "A video with the tracked objects drawn", TAG,
                  request=(Body(JSON, AnnotatedVideoRequest),), response=(Body("video/mp4"),),
                  errors=(400, 404, 408, 409, 413, 415, 422, 500, 503, 507), needs="infer",
                  held="session_id"),
            api_route("GET", f"{one}/status", self.status, "One video session", None, SessionStatus,
                      errors=gone),
            api_route("DELETE", one + "/object/{obj_id:[0-9]{1,9}}", self.remove,
                      "Give an object up", None, Removed, errors=failed),
            api_route("POST", f"{one}/reset", self.reset, "Clear prompts and objects", None, Reset,
                      errors=failed),
            api_route("DELETE", one, self.close, "Close a video session", None, Closed,
                      errors=gone),
            api_route("GET", "/api/v1/video/sessions", self.list, "The open video sessions", None,
                      Sessions, errors=(422, 503), held="*"),
            Route("GET", STREAM + "/{session_id}", self.stream, needs="infer", held="session_id",
                  socket=True),
        ]  # fmt: skip

    async def start(self, request: web.Request) -> web.Response:
        """Open a video."""
        self._check_enabled()
        async with self._read(request, StartRequest) as asked:
            return _json(await self._sessions.start(asked, principal_of(request).id))

    async def upload(self, request: web.Request) -> web.Response:
        """Open the video in the body or in its form."""
        self._check_enabled()
        check_query(request, ("session_id",))
        name = session_id(request.query.get("session_id"))
        return _json(await self._sessions.upload(name, request, principal_of(request).id))

    async def frame(self, request: web.Request) -> web.Response:
        """Answer with a frame as a JPEG, even while the session is busy."""
        session = self._session(request)
        jpeg = await self._sessions.picture(session, int(request.match_info["frame_index"]))
        # another video may have this id later
        headers = {"Cache-Control": "no-store"}
        return web.Response(body=jpeg, content_type="image/jpeg", headers=headers)

    async def prompt(self, request: web.Request) -> web.Response:
        """Add prompts to a frame, or correct an object there."""
        session = self._session(request)
        async with self._read(request, PromptRequest) as asked:
            told = self._with_mask_format(asked)
        answer, figures = await session.call("prompt", told)
        session.note(figures)
        return _json(answer)

    async def propagate(self, request: web.Request) -> web.Response:
        """Track through the video and answer with every frame."""
        session = self._session(request)
        asked = PropagateRequest()
        if request.can_read_body:
            async with self._read(request, PropagateRequest) as asked:
                pass
        told = self._with_mask_format(asked)
        if asked.stream:
            return _json(Propagated(session.id, {}, 0, 0.0, f"{STREAM}/{session.id}"))
        begun = time.perf_counter()
        with self._gathering(request) as share:
            results = await _gather(session, told, share)
            spent = (time.perf_counter() - begun) * 1e3
            return _json(Propagated(session.id, results, len(results), round(spent, 3)))

    async def video(self, request: web.Request) -> web.Response:
        """Answer with the video with the tracked objects drawn in."""
        session = self._session(request)
        async with (
            self._read(request, AnnotatedVideoRequest) as asked,
            contextlib.aclosing(session.annotated_video(asked)) as pieces,
        ):
            found: list[bytes] = []
            with self._gathering(request) as share:
                async for piece in pieces:
                    share.take(len(piece))
                    found.append(piece)
                whole = b"".join(found)
        return web.Response(body=whole, content_type="video/mp4")

    async def status(self, request: web.Request) -> web.Response:
        """Answer with the status of one session."""
        return _json(self._sessions.status(_name(request), caller_of(request)))

    async def remove(self, request: web.Request) -> web.Response:
        """Remove an object."""
        session = self._session(request)
        number = int(request.match_info["obj_id"])
        session.note(await session.call("remove", number))
        return _json(Removed(session.id, number))

    async def reset(self, request: web.Request) -> web.Response:
        """Clear prompts and objects."""
        session = self._session(request)
        count, figures = await session.call("reset", repair=True)
        session.note(figures)
        return _json(Reset(session.id, "reset", count))

    async def close(self, request: web.Request) -> web.Response:
        """Close a session."""
        return _json(await self._sessions.close(_name(request), caller_of(request)))

    async def list(self, request: web.Request) -> web.Response:
        """List the open sessions."""
        check_query(request, ())
        listed = [session.list_entry() for session in self._sessions.all(caller_of(request))]
        for others in await self._held.gather(request, Sessions):
            listed += others.sessions
        return _json(Sessions(listed, len(listed)))

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Track through the video on a WebSocket."""
        socket = VideoSocket(self._sessions, self._with_mask_format, self._stopping)
        return await socket.serve(request, _name(request), caller_of(request))

    @contextlib.contextmanager
    def _gathering(self, request: web.Request) -> Iterator[Share]:
        """Count what is gathered for one answer as the caller's bytes in flight.

        The answer that is made of it exists beside it only within one step of the event loop.
        """
        share = self._budget(principal_of(request).id)
        try:
            yield share
        finally:
            share.give_back()

    def _session(self, request: web.Request) -> Session:
        """Return the requested session. Raises ``NotFound``, also for another owner's."""
        return self._sessions.get(_name(request), caller_of(request))

    def _check_enabled(self) -> None:
        if not self._enabled:
            raise Unavailable("Video inference is turned off on this server")

    def _with_mask_format(self, asked: Any) -> Any:
        """Return the request with the default mask format if it has none."""
        if asked.mask_format is not None:
            return asked
        return msgspec.structs.replace(asked, mask_format=self._form)


async def _gather(session: Session, asked: Any, share: Share) -> dict[str, FrameResult]:
    """Return every frame of a propagation in order. Raises ``InvalidParams`` for too much."""
    found: dict[int, FrameResult] = {}
    size = 0
    async with contextlib.aclosing(session.propagate(asked)) as steps:
        async for step in steps:
            size += len(step.objects)
            if size > MAX_RESULTS_BYTES:
                raise InvalidParams("max_frames: too large for one answer: stream the frames")
            share.take(len(step.objects))
            found[step.frame_index] = FrameResult(
                step.frame_index, msgspec.Raw(step.objects), step.damaged
            )
    return {str(frame): found[frame] for frame in sorted(found)}


def _name(request: web.Request) -> str:
    return request.match_info["session_id"]


def principal_of(request: web.Request) -> Principal:
    """Return the authenticated principal; these routes require one."""
    principal = request[PRINCIPAL]
    assert principal is not None  # noqa: S101 - for the type checker: the server ensures it
    return principal


def caller_of(request: web.Request) -> Caller:
    """Return whose sessions a request may see."""
    principal = principal_of(request)
    return Caller(principal.id, principal.may("admin"))


def _json(answer: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(answer), content_type="application/json")
