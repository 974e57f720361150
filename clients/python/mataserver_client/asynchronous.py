"""The client for code that runs on an event loop."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
import weakref
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

import aiohttp
import msgspec

from mataserver_client import images
from mataserver_client.errors import MataError
from mataserver_client.failures import BadAnswer
from mataserver_client.flight import Flight
from mataserver_client.replies import Failure, Health, ModelStatus, Session, Token
from mataserver_client.results import InferResponse, ModelDetail, ModelInfo
from mataserver_client.source import Source
from mataserver_client.stream import FrameStream, Reconnect, close_idle
from mataserver_client.transport import CLOSE_TIMEOUT, Answer, Transport, encode

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping

    from mataserver_client.replies import StreamItem
    from mataserver_client.source import Frames

_QUEUE = re.compile(r'^\w+_queue_length\{model=("(?:[^"\\\\]|\\\\.)*")\} (\S+)$', re.MULTILINE)
_SESSION_ID = re.compile(r"sess_[0-9a-f]{12}")


class AsyncClient:
    """One server's API; use it as ``async with AsyncClient(...) as client``.

    ``timeout`` is in seconds for a whole request (None: no limit; ``pull`` and ``warmup`` have
    none); ``msgpack`` asks for answers in MessagePack, in which masks and depth maps are not
    blown up by base64. Every method raises ``ConnectionFailed`` without an answer,
    ``AuthenticationFailed`` for a key that the server refuses, and else the ``MataError`` of the
    answer's status, with its ``detail`` and ``retry_after``.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8110",
        api_key: str | None = None,
        *,
        timeout: float | None = 300.0,
        msgpack: bool = False,
    ) -> None:
        self._transport = Transport(url, api_key, timeout=timeout, msgpack=msgpack)
        self._streams: weakref.WeakSet[AsyncGenerator[StreamItem, None]] = weakref.WeakSet()
        self._own_sessions: set[str] = set()

    async def __aenter__(self) -> Self:
        await self._transport.open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        """End the streams, delete the sessions that they made, and close the connections."""
        try:
            for stream in list(self._streams):
                await close_idle(stream)
            for session_id in list(self._own_sessions):
                await self._drop(session_id)
        finally:
            await self._transport.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._transport.where}>"

    async def request(
        self,
        method: str,
        path: str,
        value: object = None,
        *,
        data: bytes | None = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Ask a route that has no method of its own, such as a plugin's.

        ``value`` is sent as JSON, ``data`` as it is. Raises as every other method.
        """
        kind = None
        if value is not None:
            data, kind = msgspec.json.encode(value), "application/json"
        return await self._transport.request(
            method, path, query=query, data=data, content_type=kind, headers=headers
        )

    async def health(self) -> Health:
        """Return the server's state; needs no key."""
        return (await self._transport.request("GET", "/v1/health")).decode(Health)

    async def models(self) -> list[ModelInfo]:
        """Return the installed models."""
        return (await self._transport.request("GET", "/v1/models")).decode(list[ModelInfo])

    async def model(self, model: str) -> ModelInfo:
        """Return one installed model. Raises ``NotFound``."""
        answer = await self._transport.request("GET", f"/v1/models/{quote(model, safe='/')}")
        return answer.decode(ModelInfo)

    async def params(self, model: str) -> dict[str, Any]:
        """Return the JSON Schema of a model's parameters: types, ranges, defaults, a sentence each.

        Raises ``NotFound``, and ``Unavailable`` where nothing installed serves the model.
        """
        path = f"/v1/models/{quote(model, safe='/')}"
        answer = await self._transport.request("GET", path, query={"include": "params"})
        schema = answer.decode(ModelDetail).params
        if not isinstance(schema, dict):
            raise BadAnswer("The server is too old to tell a model's parameters")
        return schema

    async def pull(self, model: str, task: str) -> ModelStatus:
        """Download or install a model for ``task``; returns when that is done.

        Raises ``BadRequest`` when it fails and ``Conflict`` while it is already going on.
        """
        return await self._change("pull", {"model": model, "task": task}, patient=True)

    async def warmup(self, model: str) -> ModelStatus:
        """Load a model into memory. Raises ``NotFound`` or ``OutOfMemory``."""
        return await self._change("warmup", {"model": model}, patient=True)

    async def unload(self, model: str) -> ModelStatus:
        """Take a model out of memory; its status is "unloaded" or "not_loaded"."""
        return await self._change("unload", {"model": model}, patient=False)

    async def pin(self, model: str) -> ModelStatus:
        """Keep a model from being pushed out of memory, until ``unpin`` or the server's end."""
        return await self._change("pin", {"model": model}, patient=False)

    async def unpin(self, model: str) -> ModelStatus:
        """Let a model be pushed out again; its status is "unpinned" or "not_pinned".

        Raises ``Conflict`` for a model that the server's configuration pins.
        """
        return await self._change("unpin", {"model": model}, patient=False)

    async def remove(self, model: str) -> ModelStatus:
        """Unload a model and forget it; what was pulled stays on the server's disk.

        Raises ``NotFound``, and ``Conflict`` while it is pulled, held by a session, or named by the
        server's configuration.
        """
        answer = await self._transport.request("DELETE", f"/v1/models/{quote(model, safe='/')}")
        return answer.decode(ModelStatus)

    async def infer(self, model: str, image: images.Image, **params: Any) -> InferResponse:
        """Run a model on one image, sent as base64 in JSON: takes every parameter.

        Raises ``BadRequest`` for what is no image and ``InvalidParams`` for a wrong parameter.
        """
        text = base64.b64encode(await images.read(image)).decode("ascii")
        body = encode({"model": model, "image": text, "params": params})
        return await self._infer("/v1/infer", data=body, content_type="application/json")

    async def upload(self, model: str, image: images.Image, **params: Any) -> InferResponse:
        """Run a model on one image, sent as a form: no base64, simple parameters only."""
        data = await images.read(image)
        form = aiohttp.FormData()
        form.add_field("model", model)
        for name, text in images.fields(params).items():
            form.add_field(name, text)
        form.add_field("file", data, filename="image", content_type=images.media_type(data))
        return await self._infer("/v1/infer/upload", data=form)

    async def infer_raw(self, model: str, image: images.Image, **params: Any) -> InferResponse:
        """Run a model on one image, sent as the request's body: the leanest way.

        Parameters travel in the query, so only simple ones are possible.
        """
        data = await images.read(image)
        query = {"model": model, **images.fields(params)}
        return await self._infer(
            "/v1/infer", query=query, data=data, content_type=images.media_type(data)
        )

    async def generate(
        self, model: str, image: images.Image, **params: Any
    ) -> AsyncGenerator[str | InferResponse, None]:
        """Run a generating model on one image; iterate over its pieces of text, then the answer.

        A model that does not generate gives its answer alone. Closing the iterator stops it.
        Raises as ``infer`` does.
        """
        text = base64.b64encode(await images.read(image)).decode("ascii")
        body = encode({"model": model, "image": text, "params": params})
        async with contextlib.aclosing(self._transport.events("/v1/infer", body)) as events:
            async for kind, data in events:
                answer = Answer(data, msgpack=False)
                if kind == "token":
                    yield answer.decode(Token).text
                elif kind == "result":
                    yield answer.decode(InferResponse)
                else:
                    raise MataError(answer.decode(Failure).detail)

    async def queues(self) -> dict[str, int]:
        """Return how many images wait for each model that was asked for; from ``/metrics``."""
        answer = await self._transport.request("GET", "/metrics")
        found = _QUEUE.findall(answer.body.decode(errors="replace"))
        return {json.loads(name): round(float(length)) for name, length in found}

    async def plugins(self) -> list[dict[str, Any]]:
        """Return the server's plugins, each with its state."""
        return (await self._transport.request("GET", "/v1/plugins")).decode(list[dict[str, Any]])

    async def settings(self) -> list[dict[str, Any]]:
        """Return every setting with its origin, secrets redacted; needs the scope ``admin``."""
        return (await self._transport.request("GET", "/v1/settings")).decode(list[dict[str, Any]])

    async def sessions(self) -> list[dict[str, Any]]:
        """Return the streaming sessions."""
        return (await self._transport.request("GET", "/v1/sessions")).decode(list[dict[str, Any]])

    async def session(self, session_id: str) -> dict[str, Any]:
        """Return one streaming session. Raises ``NotFound``."""
        answer = await self._transport.request("GET", f"/v1/sessions/{quote(session_id, safe='')}")
        return answer.decode(dict[str, Any])

    async def create_session(self, model: str, task: str | None = None, **params: Any) -> Session:
        """Make a streaming session, with the model loaded and ``params`` for every frame.

        Raises ``NotFound``, ``InvalidParams``, ``OutOfMemory``, or ``Unavailable`` when there are
        too many sessions.
        """
        body = encode({"model": model, "task": task, "params": params})
        answer = await self._transport.request(
            "POST", "/v1/sessions", data=body, content_type="application/json", patient=True
        )
        return answer.decode(Session)

    async def delete_session(self, session_id: str) -> None:
        """End a session; an open stream of it ends. Raises ``NotFound``."""
        await self._transport.request("DELETE", f"/v1/sessions/{quote(session_id, safe='')}")

    def stream(
        self,
        model: str | Session,
        frames: Frames,
        *,
        task: str | None = None,
        window: int | None = 1,
        reconnect: bool | Reconnect = True,
        grace: float | None = 60.0,
        **params: Any,
    ) -> AsyncGenerator[StreamItem, None]:
        """Stream encoded frames through a model; iterate over the results.

        ``model`` is a model, for which a session with ``task`` and ``params`` is made and deleted
        at the end, or a session (or its id) of the caller's. ``frames`` is a plain iterable, read
        in a thread, or an asynchronous one.

        Yields an ``InferResponse`` per answered frame, whose ``frame_id`` is the frame's number in
        ``frames``, and a ``FrameError`` for a frame that the server cannot use. The server drops
        frames that it has no time for: then numbers are missing and ``dropped`` grows. ``window``
        frames may be on their way: 1 gives every frame its answer, 2 keeps the model busier and
        may drop one now and then; None sends at the rate of ``frames``, for live cameras.

        A lost connection is made again within the session's life; of the frames on their way the
        newest is then sent again. Frames that stay without any answer for ``grace`` seconds are
        given up. The iteration ends when the last frame is answered or the session is deleted.
        ``break`` leaves it; to have all closed at that moment use ``contextlib.aclosing``.

        Raises ``NotFound`` for a session that expired, ``Conflict`` when another connection uses
        it, the ``MataError`` of a connection that did not come back, and what ``frames`` raises.
        """
        given = model.session_id if isinstance(model, Session) else model
        fresh = not isinstance(model, Session) and not _SESSION_ID.fullmatch(given)
        if not fresh and (task is not None or params):
            raise ValueError("task and params are set when a session is made")
        policy = (Reconnect() if reconnect else None) if isinstance(reconnect, bool) else reconnect
        flight, source = Flight(window, fresh=fresh, grace=grace), Source(frames)

        async def items() -> AsyncGenerator[StreamItem, None]:
            async with self._lease(given, task, params, fresh=fresh) as session_id:
                run = FrameStream(self._transport, session_id, source, flight, reconnect=policy)
                async with contextlib.aclosing(run.items()) as answers:
                    async for item in answers:
                        yield item

        stream = items()
        self._streams.add(stream)
        return stream

    @contextlib.asynccontextmanager
    async def _lease(
        self, given: str, task: str | None, params: dict[str, Any], *, fresh: bool
    ) -> AsyncIterator[str]:
        """Give a session's id, and delete the session afterwards if it was made here."""
        if not fresh:
            yield given
            return
        session_id = (await self.create_session(given, task, **params)).session_id
        self._own_sessions.add(session_id)
        try:
            yield session_id
        finally:
            await self._drop(session_id)

    async def _drop(self, session_id: str) -> None:
        """Delete an own session, once. A server that does not answer forgets it by itself."""
        if session_id in self._own_sessions:
            self._own_sessions.discard(session_id)
            with contextlib.suppress(MataError, TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    await self.delete_session(session_id)

    async def _change(self, verb: str, body: dict[str, str], *, patient: bool) -> ModelStatus:
        answer = await self._transport.request(
            "POST",
            f"/v1/models/{verb}",
            data=encode(body),
            content_type="application/json",
            patient=patient,
        )
        return answer.decode(ModelStatus)

    async def _infer(self, path: str, **request: Any) -> InferResponse:
        return (await self._transport.request("POST", path, **request)).decode(InferResponse)
