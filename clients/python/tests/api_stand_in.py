"""A small server of the API for the client's tests: fixed answers, and failures by script.

It decides by counts alone, never by time: ``hold={0: 4}`` keeps the answer to frame 0 back until
frame 4 has arrived. Its models see a picture's width: a detection's box ends there.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import struct
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import WSMsgType, web
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

KEY = "key-0123456789abcdef"
BOXES, DEPTH, MASKS = "acme/boxes", "acme/depth", "acme/masks"
TASKS = {BOXES: "detect", DEPTH: "depth", MASKS: "segment"}
LOSE, DROP, FAIL, SILENT = "lose", "drop", "fail", "silent"
"""Faults at a frame: the connection breaks before or after it is counted; the engine fails (error
message and close 1011); no answer ever."""


def picture(width: int, height: int = 4) -> bytes:
    """Return a PNG of that size."""
    out = io.BytesIO()
    Image.new("RGB", (width, height), (200, 30, 60)).save(out, "PNG")
    return out.getvalue()


@dataclass
class Refusal:
    """The answer to the next request; none at all for status 0."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})


@dataclass
class Stream:
    """A session and its one-slot inbox."""

    model: str
    task: str
    params: dict[str, Any]
    received: int = 0
    dropped: int = 0
    waiting: tuple[int, bytes] | None = None
    arrived: asyncio.Condition = field(default_factory=asyncio.Condition)
    socket: web.WebSocketResponse | None = None
    texts: list[str] = field(default_factory=list)


@dataclass
class StandIn:
    """The server's state and script.

    ``faults`` maps the number of a frame, counted over all connections, to a fault or a close code;
    each strikes once. ``greetings`` are the close codes of the next connections, None to accept.
    """

    key: str | None = KEY
    faults: dict[int, str | int] = field(default_factory=dict)
    hold: dict[int, int] = field(default_factory=dict)
    greetings: list[int | None] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    streams: dict[str, Stream] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    requests: list[web.Request] = field(default_factory=list)
    connections: int = 0
    frames_seen: int = 0
    first_frame: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def app(self) -> web.Application:
        """Return the application."""
        app = web.Application(middlewares=[self._guard], client_max_size=2**24)
        app.add_routes(
            [
                web.get("/v1/health", self._health),
                web.get("/v1/models", self._models),
                web.get("/v1/models/{model:.+}", self._model),
                web.delete("/v1/models/{model:.+}", self._remove),
                web.post("/v1/models/{verb:pull|warmup|unload|pin|unpin}", self._change),
                web.post("/v1/infer", self._infer),
                web.post("/v1/infer/upload", self._upload),
                web.get("/v1/plugins", self._plugins),
                web.get("/v1/settings", self._settings),
                web.get("/v1/sessions", self._sessions),
                web.post("/v1/sessions", self._create),
                web.get("/v1/sessions/{id}", self._session),
                web.delete("/v1/sessions/{id}", self._delete),
                web.get("/v1/stream/{id}", self._stream),
            ]
        )
        return app

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[StandIn]:
        """Listen on a free port."""
        runner = web.AppRunner(self.app(), access_log=None, handler_cancellation=True)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            yield self
        finally:
            await runner.cleanup()

    @contextlib.contextmanager
    def serve_in_thread(self) -> Iterator[StandIn]:
        """Listen, on an event loop in another thread."""
        started = threading.Event()
        loop = asyncio.new_event_loop()
        stop = asyncio.Event()

        async def live() -> None:
            async with self.serve():
                started.set()
                await stop.wait()

        def run() -> None:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                runner.run(live())

        thread = threading.Thread(target=run)
        thread.start()
        try:
            started.wait(10)
            yield self
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.requests.append(request)
        if self.refusals:
            refusal = self.refusals.pop(0)
            await request.read()
            if not refusal.status:
                await asyncio.Event().wait()
            return web.Response(status=refusal.status, body=refusal.body, headers=refusal.headers)
        open_routes = request.path == "/v1/health" or request.path.startswith("/v1/stream/")
        given = request.headers.get("Authorization")
        if self.key and not open_routes and given != f"Bearer {self.key}":
            if given is None:
                return _detail(401, "Missing Authorization header")
            return _detail(403, "Invalid API key")
        try:
            return await handler(request)
        except _Wrong as wrong:
            return _detail(wrong.status, wrong.detail)

    async def _health(self, request: web.Request) -> web.Response:
        return _answer(request, {"status": "ok", "version": "0.1.0", "gpu_available": False})

    async def _models(self, request: web.Request) -> web.Response:
        return _answer(request, [_info(model) for model in TASKS])

    async def _model(self, request: web.Request) -> web.Response:
        info = _info(_known(request.match_info["model"]))
        if request.query.get("include") == "params":
            info["params"] = {"type": "object", "properties": {}}
        return _answer(request, info)

    async def _remove(self, request: web.Request) -> web.Response:
        model = _known(request.match_info["model"])
        return _answer(request, {"status": "removed", "model": model})

    async def _change(self, request: web.Request) -> web.Response:
        body, verb = await request.json(), request.match_info["verb"]
        if verb == "pull":
            if body["task"] not in TASKS.values():
                raise _Wrong(400, f"Unknown task: {body['task']}")
            return _answer(request, {"status": "pulled", "model": body["model"]}, status=202)
        status = {
            "warmup": "ready",
            "unload": "ready" if body.get("if_loading") else "not_loaded",
            "pin": "pinned",
            "unpin": "unpinned",
        }[verb]
        return _answer(request, {"status": status, "model": _known(body["model"])})

    async def _infer(self, request: web.Request) -> web.Response:
        if request.content_type.startswith("image/"):
            params = dict(request.query)
            return _inferred(request, params.pop("model"), await request.read(), params)
        body = await request.json()
        data = base64.b64decode(body["image"], validate=True)
        return _inferred(request, body["model"], data, body.get("params", {}))

    async def _upload(self, request: web.Request) -> web.Response:
        form = dict(await request.post())
        model, file = form.pop("model"), form.pop("file")
        return _inferred(request, model, file.file.read(), form)

    async def _settings(self, request: web.Request) -> web.Response:
        return _answer(request, [{"name": "port", "value": 8110, "origin": "default"}])

    async def _plugins(self, request: web.Request) -> web.Response:
        return _answer(request, [{"name": "fake", "status": "ok"}])

    async def _sessions(self, request: web.Request) -> web.Response:
        return _answer(request, [self._shown(session_id) for session_id in self.streams])

    async def _session(self, request: web.Request) -> web.Response:
        return _answer(request, self._shown(request.match_info["id"]))

    def _shown(self, session_id: str) -> dict[str, Any]:
        if session_id not in self.streams:
            raise _Wrong(404, f"Session not found: {session_id}")
        stream = self.streams[session_id]
        return {"session_id": session_id, "model": stream.model, "task": stream.task}

    async def _create(self, request: web.Request) -> web.Response:
        body = await request.json()
        model = _known(body["model"])
        _check(body.get("params", {}))
        session_id = f"sess_{len(self.streams) + len(self.deleted):012x}"
        task = body.get("task") or TASKS[model]
        self.streams[session_id] = Stream(model, task, body.get("params", {}))
        url = f"ws://{request.host}/v1/stream/{session_id}"
        return _answer(request, {"session_id": session_id, "ws_url": url}, status=201)

    async def _delete(self, request: web.Request) -> web.Response:
        session_id = request.match_info["id"]
        self._shown(session_id)
        stream = self.streams.pop(session_id)
        self.deleted.append(session_id)
        if stream.socket is not None:
            await stream.socket.close(code=1000)
        return web.Response(status=204)

    async def _stream(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(protocols=("mata.v1.msgpack",))
        await socket.prepare(request)
        self.connections += 1
        greeting = self.greetings.pop(0) if self.greetings else None
        stream = self.streams.get(request.match_info["id"])
        if self.key and request.query.get("token") != self.key:
            greeting = 4001
        elif stream is None:
            greeting = 4004
        elif stream.socket is not None:
            greeting = 1008
        if greeting is not None or stream is None:
            await socket.close(code=greeting or 1011)
            return socket
        stream.socket = socket
        worker = asyncio.create_task(self._work(stream, request.match_info["id"], socket))
        try:
            await self._read(stream, socket, request)
        finally:
            stream.socket, stream.waiting = None, None
            worker.cancel()
            await asyncio.wait({worker})
        return socket

    async def _read(
        self, stream: Stream, socket: web.WebSocketResponse, request: web.Request
    ) -> None:
        for notice in self.notices:
            await socket.send_str(notice)
        async for message in socket:
            if message.type is not WSMsgType.BINARY:
                stream.texts.append(message.data)
                continue
            fault = self.faults.pop(self.frames_seen, None)
            self.frames_seen += 1
            self.first_frame.set()
            if fault != LOSE:
                async with stream.arrived:
                    stream.dropped += stream.waiting is not None
                    stream.waiting = (stream.received, message.data)
                    stream.received += 1
                    stream.arrived.notify_all()
            if fault in (LOSE, DROP):
                request.transport.abort()
                return
            if fault is not None:
                await self._misbehave(fault, stream, socket)

    async def _misbehave(
        self, fault: str | int, stream: Stream, socket: web.WebSocketResponse
    ) -> None:
        number, _ = stream.waiting
        stream.waiting = None
        if fault == FAIL:
            told = {"frame_id": number, "detail": "Engine failed", "retry_after": 1}
            await socket.send_json({"type": "error"} | told)
            fault = 1011
        if isinstance(fault, int):
            await socket.close(code=fault)

    async def _work(self, stream: Stream, session_id: str, socket: web.WebSocketResponse) -> None:
        while True:
            async with stream.arrived:
                await stream.arrived.wait_for(lambda: stream.waiting is not None)
                number, data = stream.waiting
                stream.waiting = None
                until = self.hold.get(number, 0)
                await stream.arrived.wait_for(lambda until=until: stream.received > until)
            packed = socket.ws_protocol is not None
            try:
                answer = _result(stream.model, stream.task, data, packed=packed)
                answer |= {"session_id": session_id, "frame_id": number}
                answer |= {"inference_ms": 1.5, "dropped": stream.dropped}
            except _Wrong as wrong:
                answer = {"type": "error", "frame_id": number, "detail": wrong.detail}
            if packed:
                await socket.send_bytes(msgspec.msgpack.encode(answer))
            else:
                await socket.send_str(msgspec.json.encode(answer).decode())


class _Wrong(Exception):
    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


def _info(model: str) -> dict[str, Any]:
    times = {"loaded_at": None, "last_used": None}
    sizes = {"size_mb": 1.5, "memory_mb": None}
    return (
        {"model": model, "task": TASKS[model], "source": "hf", "state": "unloaded"} | sizes | times
    )


def _known(model: str) -> str:
    if model not in TASKS:
        raise _Wrong(404, f"Model not found: {model}")
    return model


def _check(params: dict[str, Any]) -> None:
    if "threshold" in params:
        raise _Wrong(422, "params.threshold: unknown parameter; use 'confidence'")


def _inferred(
    request: web.Request, model: str, data: bytes, params: dict[str, Any]
) -> web.Response:
    _check(params)
    packed = "application/msgpack" in request.headers.get("Accept", "")
    answer = _result(_known(model), TASKS[model], data, packed=packed)
    if params:
        answer["output"] = params  # so that a test sees what arrived
    return _answer(request, answer)


def _result(model: str, task: str, data: bytes, *, packed: bool) -> dict[str, Any]:
    try:
        width, height = Image.open(io.BytesIO(data)).size
    except OSError:
        raise _Wrong(400, "The image cannot be decoded") from None
    head = {"schema_version": "mata.v1", "task": task, "model": model, "timestamp": 1.7e9}
    found = {"label": "patch", "confidence": 0.9, "bbox": [0.0, 0.0, float(width), float(height)]}
    if task == "depth":
        return head | {"depth_map": _pixels(_depth(), packed=packed), "depth_shape": [2, 3]}
    if task == "segment":
        return head | {"segments": [found | {"mask": _pixels(_mask(width), packed=packed)}]}
    return head | {"detections": [found]}


def _depth() -> bytes:
    return struct.pack("<6f", 0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def _mask(width: int) -> bytes:
    out = io.BytesIO()
    mask = Image.new("L", (width, 4), 0)
    mask.putpixel((0, 1), 255)
    mask.save(out, "PNG")
    return out.getvalue()


def _pixels(data: bytes, *, packed: bool) -> bytes | str:
    return data if packed else base64.b64encode(data).decode()


def _answer(request: web.Request, value: Any, *, status: int = 200) -> web.Response:
    if "application/msgpack" in request.headers.get("Accept", ""):
        body, kind = msgspec.msgpack.encode(value), "application/msgpack"
    else:
        body, kind = msgspec.json.encode(value), "application/json"
    return web.Response(body=body, status=status, content_type=kind)


def _detail(status: int, detail: str) -> web.Response:
    return web.json_response({"detail": detail}, status=status)
