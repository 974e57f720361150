"""The WebSocket route: access checks and closing. See docs/streaming.md."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from functools import partial
from typing import TYPE_CHECKING

from aiohttp import WSMsgType

from mataserver.errors import BadRequest, NotFound
from mataserver.http import auth
from mataserver.http.auth import PRINCIPAL
from mataserver.http.head_connection import CachingConnection
from mataserver.http.request_credentials import is_socket
from mataserver.http.revocation import REVOKED_REASON, watch_revocation
from mataserver.http.routing import Route, StatelessService
from mataserver.http.sockets import WebSocket
from mataserver.http.stream_channel import (
    GOING_AWAY,
    INTERNAL,
    MSGPACK_PROTOCOL,
    NORMAL,
    CloseReason,
)
from mataserver.http.stream_connection import Connection
from mataserver.http.stream_direct import DirectConnection
from mataserver.http.stream_viewer import Viewer

if TYPE_CHECKING:
    from aiohttp import web

    from mataserver.http.stream_channel import Channel, StreamSettings
    from mataserver.principals import Principal
    from mataserver.serving.sessions import Session

JSON_PROTOCOL = "mata.v1.json"
CLOSE_TIMEOUT = 3.0
DEPARTURE = 0.2
"""Seconds that a connection may wait for the session's last one to end, before it is refused."""
MAX_VIEWERS = 32
"""Maximum simultaneous viewers of one camera."""
MAX_UNAUTHENTICATED_MESSAGE = 1_000_000
"""The largest message that is read, and ignored, from a client without a valid key."""

MALFORMED_CODES = frozenset({1002, 1007, 1009, 1013})
"""Close codes for invalid messages: protocol, text, size, temporary size limit."""

POLICY, UNAUTHORIZED, NO_SESSION = 1008, 4001, 4004

log = logging.getLogger("mataserver.stream")


class StreamSocket(WebSocket):
    """aiohttp's WebSocket, which delivers the close reason even to clients that keep sending.

    aiohttp closes the transport right after the close frame of a malformed or oversized message.
    Data that the client still sends then causes a reset, which may overtake that frame.
    """

    async def close(self, *, code: int = NORMAL, message: bytes = b"", drain: bool = True) -> bool:
        """Close; a close by ``receive`` for a malformed message, without a reason, is deferred."""
        if code in MALFORMED_CODES and not message:
            return False
        return await super().close(code=code, message=message, drain=drain)

    async def close_malformed(self, closing: CloseReason, transport: asyncio.Transport) -> None:
        """Send the close frame and discard input until the peer leaves or the time is up."""
        payload = closing.code.to_bytes(2, "big") + closing.reason.encode()
        await self.send_frame(payload, WSMsgType.CLOSE)
        await asyncio.sleep(CLOSE_TIMEOUT)  # cancelled when the peer goes
        transport.abort()


class StreamService(StatelessService):
    """The sessions' WebSockets, on their own route and on those of services."""

    def __init__(self, max_body: int, settings: StreamSettings) -> None:
        self._max_body = max_body
        self._settings = settings
        self._sessions = settings.sessions

    def routes(self) -> list[Route]:
        """Return the route."""
        return [
            Route("GET", "/v1/stream/{session_id}", self._stream, "Stream frames", "sessions",
                  public=True, documented=False, socket=True, held="session_id"),
        ]  # fmt: skip

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        return await self.serve(request, request.match_info["session_id"])

    async def serve(self, request: web.Request, session_id: str) -> web.StreamResponse:
        """Serve a session's WebSocket. Raises ``BadRequest``."""
        if not is_socket(request):
            raise BadRequest("This is a WebSocket: connect with a WebSocket client")
        principal = request[PRINCIPAL]
        known = principal is not None and principal.may("infer")
        # aiohttp's limit is exclusive.
        limit = self._max_body + 1
        socket = StreamSocket(
            autoping=False,
            autoclose=False,  # whoever has the goodbye may come back: first the session is free
            compress=False,
            max_msg_size=limit if known else min(limit, MAX_UNAUTHENTICATED_MESSAGE),
            protocols=(MSGPACK_PROTOCOL, JSON_PROTOCOL),
            timeout=CLOSE_TIMEOUT,
        )
        await socket.prepare(request)
        if not known:
            socket.ignore_messages()
        transport = request.transport
        begun = time.monotonic()
        try:
            if known:
                closing = await self._serve_logged(request, socket, session_id)
            else:
                closing = CloseReason(UNAUTHORIZED, "unauthorized")
            begun = time.monotonic()
            await _close(socket, closing, transport)
        finally:
            if transport is not None:
                await _flush_or_abort(transport, begun + CLOSE_TIMEOUT)
        return socket

    async def _serve_logged(
        self, request: web.Request, socket: StreamSocket, session_id: str
    ) -> CloseReason:
        """Serve the socket. Unexpected exceptions are logged and close it with 1011."""
        try:
            await self._await_departure(session_id, auth.caller(request))
            session = self._admit(request, session_id)
            if isinstance(session, CloseReason):
                return session
            return await self._serve(session, socket, request)
        except Exception:
            log.exception("a stream failed")
            return CloseReason(INTERNAL, "internal error")

    async def _await_departure(self, session_id: str, caller: Principal) -> None:
        """Wait a moment for a session's connection that is about to end.

        The loss of one that was reset may be noticed after its client's next attempt.
        """
        deadline = time.monotonic() + DEPARTURE
        with contextlib.suppress(NotFound):
            while time.monotonic() < deadline:
                session = self._sessions.get(session_id, caller)
                if session.camera is not None or not session.connections:
                    return
                await asyncio.sleep(DEPARTURE / 20)

    def _admit(self, request: web.Request, session_id: str) -> Session | CloseReason:
        """Return the session to serve, or the close reason."""
        caller = auth.caller(request)
        try:
            session = self._sessions.get(session_id, caller)
        except NotFound:
            return CloseReason(NO_SESSION, "invalid or expired session")
        if problem := self._lack_of_room(session, caller.id):
            return CloseReason(POLICY, problem)
        if self._settings.lifecycle.is_draining:
            return CloseReason(GOING_AWAY, "the server is shutting down")
        return session

    def _lack_of_room(self, session: Session, caller: str) -> str:
        """Return why a session takes no further connection; nothing if it does."""
        if session.camera is None:
            return "the session has a connection already" if session.connections else ""
        if len(session.connections) >= MAX_VIEWERS:
            return f"the camera has {MAX_VIEWERS} connections already"
        viewers = session.connections.values() if session.owner is None else ()
        fair = self._sessions.exhausted_share(caller, viewers, MAX_VIEWERS)
        return f"you have {fair} connections to the camera already" if fair else ""

    async def _serve(
        self, session: Session, socket: StreamSocket, request: web.Request
    ) -> CloseReason:
        camera = session.camera
        if camera is None:
            connection = self._connection(session, socket, request)
            return await self._run_attached(session, connection, request)
        viewer = Viewer(self._settings, session, socket)
        camera.subscribe(viewer)
        try:
            return await self._run_attached(session, viewer, request)
        finally:
            camera.unsubscribe(viewer)

    def _connection(
        self, session: Session, socket: StreamSocket, request: web.Request
    ) -> Connection:
        connection = request.protocol
        if isinstance(connection, CachingConnection):
            return DirectConnection(self._settings, session, socket, connection, self._max_body)
        return Connection(self._settings, session, socket)

    async def _run_attached(
        self, session: Session, channel: Channel, request: web.Request
    ) -> CloseReason:
        self._sessions.attach(session, channel.request_close, auth.caller(request).id)
        end = partial(channel.request_close, UNAUTHORIZED, REVOKED_REASON)
        try:
            with watch_revocation(request, end):
                return await channel.run()
        finally:
            self._sessions.detach(session, channel.request_close)


async def _close(
    socket: StreamSocket, closing: CloseReason, transport: asyncio.Transport | None
) -> None:
    """Close, and wait for the peer's close frame for a limited time."""
    if socket.closed or transport is None:
        return
    task = asyncio.current_task()
    try:
        if closing.code in MALFORMED_CODES:
            await socket.close_malformed(closing, transport)
            return
        async with asyncio.timeout(CLOSE_TIMEOUT):
            await socket.close(code=closing.code, message=closing.reason.encode(), drain=False)
    except (TimeoutError, ConnectionError):
        log.debug("a client did not read its close message")
    except asyncio.CancelledError:
        # A cancelled send to a peer that does not read leaves aiohttp a cancelled future, which the
        # close frame then raises. This task itself was not cancelled.
        if task is None or task.cancelling():
            raise


async def _flush_or_abort(transport: asyncio.Transport, deadline: float) -> None:
    """Abort the connection of a peer that does not read; closing would keep the output buffer."""
    try:
        while transport.get_write_buffer_size() and time.monotonic() < deadline:  # noqa: ASYNC110 - a transport has no event for it
            await asyncio.sleep(0.05)
    finally:
        if transport.get_write_buffer_size():
            transport.abort()
