"""The WebSockets of sessions at mataservers, relayed frame by frame."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp
from aiohttp import WSMsgType

from mataserver import BadRequest, NotFound
from mataserver_fleet.gateway.exchange import UpstreamFailure
from mataserver_fleet.gateway.usage import Subject

if TYPE_CHECKING:
    from aiohttp import web

    from mataserver import MataError
    from mataserver_fleet.gateway.gateway import Gateway
    from mataserver_fleet.gateway.snapshot import Consumer, Place, Target

    Socket = web.WebSocketResponse | aiohttp.ClientWebSocketResponse
    CloseFrame = tuple[Any, Any]

STREAM_PREFIX = "/v1/stream/"
UNAUTHORIZED = 4001
"""The close code for a consumer that is no longer authorised."""
CLOSE_SECONDS = 5.0
"""Seconds that a side has to answer that it is closed."""
MAX_MESSAGE_BYTES = 1 << 26
"""Bytes of one message of a server, which is in memory: its answer to a frame."""
_OF_CLIENT, _OF_SERVER = 0, 1
"""Whose frames are handed over."""
_CUT = (1006, "")
"""The end of a side that sent no close frame."""
_CLOSE_TYPES = frozenset({WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR})
_CONTENT_TYPES = frozenset({WSMsgType.TEXT, WSMsgType.BINARY})


class SessionGone(NotFound):
    """404: the server that made a session no longer has it."""


class GatewaySession(NamedTuple):
    """Where a session is, and whose: names, since places change while it lives."""

    application: str
    model: str
    target: Target
    consumer: int


class RequestedSession(NamedTuple):
    """A requested session, with its route and consumer."""

    session_id: str
    session: GatewaySession
    place: Place
    consumer: Consumer


class _Tally:
    """What is counted of a WebSocket: bytes of the client and of the server, and a status."""

    def __init__(self) -> None:
        self.sizes = [0, 0]
        self.status = 200


class StreamSockets:
    """Relays the WebSockets of sessions. ``client_timeout`` is in seconds.

    ``client`` connects to other servers, ``own`` to this one.
    """

    def __init__(
        self,
        gateway: Gateway,
        client: aiohttp.ClientSession,
        own: aiohttp.ClientSession,
        client_timeout: float,
    ) -> None:
        self._gateway = gateway
        self._client = client
        self._own = own
        self._client_timeout = client_timeout

    async def relay(self, known: RequestedSession, request: web.Request) -> web.StreamResponse:
        """Answer with the WebSocket of a session; return when it has ended.

        Raises ``BadRequest`` for a plain request, ``SessionGone``, and ``UpstreamFailure`` where
        the server cannot be reached.
        """
        if request.headers.get("Upgrade", "").lower() != "websocket":
            raise BadRequest("This is a WebSocket: connect with a WebSocket client")
        server = self._gateway.servers.get(known.session.target)
        server.begin()
        tally = _Tally()
        ended: asyncio.Future[CloseFrame] = asyncio.get_running_loop().create_future()
        end = functools.partial(_end_unauthorized, ended)
        try:
            with self._gateway.grants.hold(known.consumer, known.place, "ws", end):
                async with (
                    await self._connect(known, request) as server_socket,
                    self._gateway.http.raw_socket(request) as client_socket,
                ):
                    await self._pump_both(client_socket, server_socket, tally, ended)
                    return client_socket
        except (aiohttp.ClientError, OSError) as error:
            gone = getattr(error, "status", 0) == NotFound.status
            tally.status = NotFound.status if gone else UpstreamFailure.status
            if gone:
                raise SessionGone("No such session") from None
            raise UpstreamFailure(
                "The server of this session cannot be reached", sent=False
            ) from error
        finally:
            server.end()
            application, route = known.place
            subject = Subject(known.consumer.name, application.name, route.model)
            self._gateway.usage.note(subject, tally.status, *tally.sizes)

    async def _connect(
        self, known: RequestedSession, request: web.Request
    ) -> aiohttp.ClientWebSocketResponse:
        target = known.session.target
        fields = {
            "X-Consumer-Username": known.consumer.name,
            "X-Forwarded-For": self._gateway.http.address(request),
        }
        if target.token:
            fields["Authorization"] = f"Bearer {target.key_for(known.consumer.id)}"
        async with asyncio.timeout(known.place.application.timeout):
            await self._gateway.resolver.check_literal(target)
            client = self._own if target.kind == "own" else self._client
            return await client.ws_connect(
                f"ws://{target.authority}{STREAM_PREFIX}{known.session_id}",
                headers=fields,
                autoping=False,
                autoclose=False,
                timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_SECONDS),
                max_msg_size=MAX_MESSAGE_BYTES,
            )

    async def _pump_both(
        self,
        client_socket: web.WebSocketResponse,
        server_socket: aiohttp.ClientWebSocketResponse,
        tally: _Tally,
        ended: asyncio.Future[CloseFrame],
    ) -> None:
        """Hand frames over in both directions until either side ends, or ``ended`` is set."""
        pumps = [
            asyncio.ensure_future(self._pump(client_socket, server_socket, tally, _OF_CLIENT)),
            asyncio.ensure_future(self._pump(server_socket, client_socket, tally, _OF_SERVER)),
        ]
        end: CloseFrame = (1001, "")
        try:
            done, _ = await asyncio.wait({*pumps, ended}, return_when=asyncio.FIRST_COMPLETED)
            end = next((each.result() for each in done if not each.exception()), end)
            if ended.done():
                end = ended.result()
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            # Side by side: a client that does not read must not hold up the server's end.
            await asyncio.gather(_close(client_socket, end), _close(server_socket, end))

    async def _pump(
        self, source: Socket, sink: Socket, tally: _Tally, direction: int
    ) -> CloseFrame:
        """Forward the frames of one side; return its close code and reason."""
        while True:
            message = await source.receive()
            if message.type is WSMsgType.CLOSE:
                return message.data, message.extra
            if message.type in _CLOSE_TYPES:
                if direction == _OF_SERVER:
                    tally.status = UpstreamFailure.status
                # Of a connection that just ends aiohttp says 1000, as of one that was closed.
                return (source.close_code, "") if message.type is WSMsgType.ERROR else _CUT
            data = message.data.encode() if isinstance(message.data, str) else bytes(message.data)
            if message.type in _CONTENT_TYPES:
                tally.sizes[direction] += len(data)
            async with asyncio.timeout(self._client_timeout):
                await sink.send_frame(data, message.type)


def _end_unauthorized(ended: asyncio.Future[CloseFrame], why: MataError) -> None:
    """Have a WebSocket end whose consumer is no longer authorised."""
    if not ended.done():
        ended.set_result((UNAUTHORIZED, why.detail))


async def _close(side: Socket, end: CloseFrame) -> None:
    """End a side as the other ended; a code that must not be sent becomes 1001."""
    code, reason = end
    sound = isinstance(code, int) and (1000 <= code <= 1014 or 3000 <= code <= 4999)
    known = code if sound and code not in {1004, 1005, 1006} else 1001
    whole = reason.encode() if isinstance(reason, str) else b""
    with contextlib.suppress(OSError, aiohttp.ClientError):
        async with asyncio.timeout(CLOSE_SECONDS):
            await side.close(code=known, message=whole[:120].decode(errors="ignore").encode())
