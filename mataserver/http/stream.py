"""The WebSocket route: who may stream, and how a socket is closed. See docs/streaming.md."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from aiohttp import web

from mataserver.errors import NotFound
from mataserver.http import auth, middleware
from mataserver.http.connection import (
    GOING_AWAY,
    INTERNAL,
    MSGPACK_PROTOCOL,
    Connection,
    Farewell,
)
from mataserver.http.routing import Route

if TYPE_CHECKING:
    from mataserver.http.routing import State
    from mataserver.sessions import Session

JSON_PROTOCOL = "mata.v1.json"
CLOSE_TIMEOUT = 3.0
STRANGER_BYTES = 1_000_000
"""The largest message that is read, to be ignored, from a client without a valid key."""

POLICY, UNAUTHORIZED, NO_SESSION = 1008, 4001, 4004

log = logging.getLogger("mataserver.stream")


def routes(state: State) -> list[Route]:
    """Return this module's route."""
    return [
        Route("GET", "/v1/stream/{session_id}", _Stream(state).stream, "Stream frames", "sessions",
              public=True, documented=False),
    ]  # fmt: skip


class _Stream:
    def __init__(self, state: State) -> None:
        self._state = state

    async def stream(self, request: web.Request) -> web.StreamResponse:
        known = auth.check_socket(request, self._state)
        # aiohttp refuses a message of exactly its limit
        limit = self._state.settings.max_body + 1
        socket = web.WebSocketResponse(
            autoping=False,
            compress=False,
            max_msg_size=limit if known else min(limit, STRANGER_BYTES),
            protocols=(MSGPACK_PROTOCOL, JSON_PROTOCOL),
            timeout=CLOSE_TIMEOUT,
        )
        socket.headers["X-Request-Id"] = request[middleware.REQUEST_ID]
        await socket.prepare(request)
        transport = request.transport
        begun = time.monotonic()
        try:
            farewell = await self._served(request, socket, known=known)
            begun = time.monotonic()
            await _close(socket, farewell)
        finally:
            if transport is not None:
                await _flush_or_abort(transport, begun + CLOSE_TIMEOUT)
        return socket

    async def _served(
        self, request: web.Request, socket: web.WebSocketResponse, *, known: bool
    ) -> Farewell:
        """Serve the socket. The edge: what nobody foresaw is logged and closes it with 1011."""
        try:
            session = self._admit(request, known=known)
            if isinstance(session, Farewell):
                return session
            return await self._serve(session, socket)
        except Exception:
            log.exception("a stream failed")
            return Farewell(INTERNAL, "internal error")

    def _admit(self, request: web.Request, *, known: bool) -> Session | Farewell:
        """Return the session to serve, or why not. Without a key nothing else is looked at."""
        if not known:
            return Farewell(UNAUTHORIZED, "unauthorized")
        try:
            session = self._state.sessions.get(request.match_info["session_id"])
        except NotFound:
            return Farewell(NO_SESSION, "invalid or expired session")
        if session.connection is not None:
            return Farewell(POLICY, "the session has a connection already")
        if self._state.draining:
            return Farewell(GOING_AWAY, "the server is shutting down")
        return session

    async def _serve(self, session: Session, socket: web.WebSocketResponse) -> Farewell:
        connection = Connection(self._state, session, socket)
        self._state.sessions.attach(session, connection)
        try:
            return await connection.run()
        finally:
            self._state.sessions.detach(session)


async def _close(socket: web.WebSocketResponse, farewell: Farewell) -> None:
    """Say goodbye and wait for the peer's, not for ever."""
    if socket.closed:
        return
    task = asyncio.current_task()
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT):
            await socket.close(code=farewell.code, message=farewell.reason.encode(), drain=False)
    except (TimeoutError, ConnectionError):
        log.debug("a peer did not take its closing message")
    except asyncio.CancelledError:
        # A send that was cancelled while the peer took nothing leaves aiohttp a cancelled future,
        # which the closing message then trips over. Nobody cancelled this task.
        if task is None or task.cancelling():
            raise


async def _flush_or_abort(transport: asyncio.Transport, deadline: float) -> None:
    """Cut off a peer that does not read: a closed transport would keep what it has to send."""
    try:
        while transport.get_write_buffer_size() and time.monotonic() < deadline:  # noqa: ASYNC110 - a transport has no event for it
            await asyncio.sleep(0.05)
    finally:
        if transport.get_write_buffer_size():
            transport.abort()
