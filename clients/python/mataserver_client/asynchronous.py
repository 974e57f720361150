"""The client for code that runs on an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import re
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

from mataserver_client.errors import MataError
from mataserver_client.failures import ClosedMeanwhile
from mataserver_client.images import encode
from mataserver_client.in_flight import InFlightFrames
from mataserver_client.inference import InferenceRequests
from mataserver_client.jobs import JobRequests
from mataserver_client.models import ModelRequests
from mataserver_client.replies import Session
from mataserver_client.source import Source
from mataserver_client.stream import FrameStream, Reconnect, close_idle
from mataserver_client.transport import CLOSE_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from mataserver_client.replies import StreamItem
    from mataserver_client.source import Frames

ANSWER_GRACE = 1.0
"""Seconds that a cancelled stream waits for the answer that names its new session."""
_SESSION_ID = re.compile(r"sess_[0-9a-f]{12}")


class AsyncClient(ModelRequests, InferenceRequests, JobRequests):
    """One server's API; use it as ``async with AsyncClient(...) as client``.

    ``timeout`` is in seconds for a whole request (None: no limit; ``pull`` and ``warmup`` have
    none); ``msgpack`` asks for answers in MessagePack, in which masks, depth maps and embeddings
    are bytes. Every method raises ``ConnectionFailed`` without an answer,
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
        super().__init__(url, api_key, timeout=timeout, msgpack=msgpack)
        self._streams: weakref.WeakSet[AsyncGenerator[StreamItem, None]] = weakref.WeakSet()
        self._own_sessions: set[str] = set()

    async def __aenter__(self) -> Self:
        await self._transport.open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        """End the streams, delete the sessions that they made, and close the connections."""
        self._transport.closing = True
        try:
            for stream in list(self._streams):
                await close_idle(stream)
            for session_id in list(self._own_sessions):
                await self._drop(session_id)
        finally:
            await self._transport.close()

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
        newest is then sent again. Where the server has forgotten a session that was made here, as
        after its restart, another is made, and its first result has ``reset``. Frames that stay
        without any answer for ``grace`` seconds are given up. The iteration ends when the last
        frame is answered or the session is deleted. ``break`` leaves it; to have all closed at that
        moment use ``contextlib.aclosing``.

        Raises ``NotFound`` for a session of the caller's that expired, ``Conflict`` when another
        connection uses it, ``ConnectionFailed`` when the client is closed before the end, the
        ``MataError`` of a connection that did not come back, and what ``frames`` raises.
        """
        given = model.session_id if isinstance(model, Session) else model
        fresh = not isinstance(model, Session) and not _SESSION_ID.fullmatch(given)
        if not fresh and (task is not None or params):
            raise ValueError("task and params are set when a session is made")
        policy = (Reconnect() if reconnect else None) if isinstance(reconnect, bool) else reconnect
        made: list[str] = []
        run = FrameStream(
            self._transport,
            "" if fresh else given,
            Source(frames, self._transport.in_thread),
            InFlightFrames(window, fresh=fresh, grace=grace),
            reconnect=policy,
            renew=partial(self._make, made, given, task, params) if fresh else None,
        )
        answers = run.items()
        self._streams.add(answers)
        return self._items(run, answers, made)

    async def _items(
        self, run: FrameStream, answers: AsyncGenerator[StreamItem, None], made: list[str]
    ) -> AsyncGenerator[StreamItem, None]:
        """Yield what a stream answers; delete the sessions ``made`` for it at its end."""
        try:
            async for item in answers:
                yield item
            if not run.ended:  # the client was closed while nobody read
                raise ClosedMeanwhile
        finally:
            await close_idle(answers)  # the client's end may be closing it at this moment
            for session_id in made:
                await self._drop(session_id)

    async def _make(
        self, made: list[str], model: str, task: str | None, params: dict[str, Any]
    ) -> str:
        """Make an own session and note its id; deletes it if the caller is cancelled meanwhile."""
        making = asyncio.create_task(self._make_own(model, task, params))
        try:
            made.append(await asyncio.shield(making))
        except asyncio.CancelledError:
            # The answer may be on its way: only it tells which session is to be deleted.
            try:
                await asyncio.wait({making}, timeout=ANSWER_GRACE)
            finally:  # also at a second cancellation
                making.cancel()
            with contextlib.suppress(MataError, asyncio.CancelledError):
                await self._drop(await making)
            raise
        return made[-1]

    async def _make_own(self, model: str, task: str | None, params: dict[str, Any]) -> str:
        made = await self.create_session(model, task, **params)
        self._own_sessions.add(made.session_id)
        return made.session_id

    async def _drop(self, session_id: str) -> None:
        """Delete an own session, once. A server that does not answer forgets it by itself."""
        if session_id in self._own_sessions:
            self._own_sessions.discard(session_id)
            with contextlib.suppress(MataError, TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    await self.delete_session(session_id)
