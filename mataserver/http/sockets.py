"""Services' WebSockets: within the server's limits, closed with 1001 at shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from aiohttp import WSMsgType, web

from mataserver.errors import BadRequest
from mataserver.http.auth import PRINCIPAL
from mataserver.http.protocol import HttpConnection
from mataserver.http.relay_sockets import CLOSE_TIMEOUT, GOING_AWAY, close_reason
from mataserver.http.request_credentials import is_socket
from mataserver.http.revocation import REVOKED_REASON, watch_revocation

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from aiohttp import WebSocketError
    from aiohttp.abc import AbstractStreamWriter

ACCEPTED: web.RequestKey[web.WebSocketResponse] = web.RequestKey("accepted")
"""The WebSocket that a handler accepted: it need return nothing."""
UNAUTHORIZED = 4001
_VERSION = {"Sec-WebSocket-Version": "13"}  # RFC 6455, 4.4: the answer names what is spoken
_BAD_HANDSHAKE = (
    "The WebSocket handshake is not valid: Connection must be Upgrade, Sec-WebSocket-Version 13, "
    "and Sec-WebSocket-Key 16 bytes in base64"
)

log = logging.getLogger("mataserver.http")


class WebSocket(web.WebSocketResponse):
    """aiohttp's WebSocket, notified of invalid frames by the connection."""

    _connection: HttpConnection | None = None

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.closing = asyncio.Lock()

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter:
        """Accept the WebSocket. Raises ``HTTPBadRequest`` with a sentence for a wrong handshake."""
        if isinstance(request.protocol, HttpConnection):
            caller = request.get(PRINCIPAL)
            request.protocol.begin_websocket(self._on_invalid_frame, caller and caller.id)
            self._connection = request.protocol
        try:
            return await super().prepare(request)
        except web.HTTPBadRequest as error:  # its reason is no sentence
            raise web.HTTPBadRequest(reason=_BAD_HANDSHAKE, headers=_VERSION) from error

    async def receive(self, timeout: float | None = None) -> Any:  # noqa: ASYNC109 - aiohttp's
        """Return the next message; once another task closes, let that wait for the peer's close.

        aiohttp would cut the connection at once. What the peer still sends would then reset it, and
        the peer not learn why.
        """
        message = await super().receive(timeout)
        if message.type is WSMsgType.CLOSING and self.closing.locked():
            self._closing = False
        return message

    def ignore_messages(self) -> None:
        """Ignore further messages; the close frame is still read."""
        if self._connection is not None:
            self._connection.ignore_messages()

    def _on_invalid_frame(self, error: WebSocketError) -> None:
        if self._reader is not None:
            self._reader.set_exception(error)


class ServiceSockets:
    """The services' open WebSockets. ``unread_timeout``: seconds that a peer may not read."""

    def __init__(self, max_message: int, ping_interval: float, unread_timeout: float) -> None:
        self._max_message = max_message
        self._ping_interval = ping_interval
        self.unread_timeout = unread_timeout
        self._open: set[WebSocket] = set()
        self._closing: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def accept(self, request: web.Request) -> AsyncIterator[MessageSocket]:
        """Accept a WebSocket of messages. Raises ``BadRequest`` for any other request."""
        async with self.accept_raw(request, ping=self._ping_interval) as socket:
            yield MessageSocket(socket, self.unread_timeout)

    @contextlib.asynccontextmanager
    async def accept_raw(
        self, request: web.Request, protocols: Sequence[str] = (), ping: float | None = None
    ) -> AsyncIterator[WebSocket]:
        """Accept a raw WebSocket. Raises ``BadRequest`` for any other request."""
        if not is_socket(request):
            raise BadRequest("This is a WebSocket: connect with a WebSocket client")
        socket = WebSocket(
            protocols=protocols,
            heartbeat=ping,
            autoping=ping is not None,
            autoclose=ping is not None,  # a relay first closes its other side
            compress=False,
            max_msg_size=self._max_message + 1,  # aiohttp's limit is exclusive
            timeout=CLOSE_TIMEOUT,
        )
        await socket.prepare(request)
        request[ACCEPTED] = socket
        self._open.add(socket)
        try:
            with watch_revocation(request, partial(self._close_revoked, socket)):
                yield socket
        except ConnectionError:
            log.debug("a peer of a WebSocket is gone")
        finally:
            self._open.discard(socket)
            await _close(socket, 1000, "")

    def _close_revoked(self, socket: WebSocket) -> None:
        task = asyncio.get_running_loop().create_task(_close(socket, UNAUTHORIZED, REVOKED_REASON))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close_all(self) -> None:
        """Close all of them, at shutdown."""
        closing = [_close(each, GOING_AWAY, "the server is shutting down") for each in self._open]
        await asyncio.gather(*closing, return_exceptions=True)


class MessageSocket:
    """A WebSocket of messages, see ``mataserver.contract.web.Socket``."""

    def __init__(self, socket: WebSocket, unread_timeout: float) -> None:
        self._socket = socket
        self._unread_timeout = unread_timeout

    async def __aiter__(self) -> AsyncIterator[str | bytes]:
        """Iterate over the messages until either side closes."""
        async for message in self._socket:
            if message.type in {WSMsgType.TEXT, WSMsgType.BINARY}:
                yield message.data

    async def send(self, message: str | bytes) -> None:
        """Send a message. Raises ``ConnectionError`` when the peer is gone or does not read."""
        try:
            async with asyncio.timeout(self._unread_timeout):
                if isinstance(message, str):
                    await self._socket.send_str(message)
                else:
                    await self._socket.send_bytes(message)
        except TimeoutError:
            raise ConnectionResetError("the peer does not read") from None

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection with a code."""
        await _close(self._socket, code, reason)


async def _close(socket: WebSocket, code: int, reason: str) -> None:
    """Close; a second call returns with the first one, as the connection ends with its handler."""
    async with socket.closing:
        if socket.closed:
            return
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await socket.close(code=code, message=close_reason(reason), drain=False)
