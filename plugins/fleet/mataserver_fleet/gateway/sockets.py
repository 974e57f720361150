"""The WebSockets of sessions at mataservers, relayed frame by frame."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

import aiohttp

from mataserver import BadRequest, NotFound, SocketRelay
from mataserver_fleet.gateway.exchange import UpstreamFailure
from mataserver_fleet.gateway.usage import Subject

if TYPE_CHECKING:
    from aiohttp import web

    from mataserver import MataError
    from mataserver_fleet.gateway.gateway import Gateway
    from mataserver_fleet.gateway.snapshot import Consumer, Place, Target

STREAM_PREFIX = "/v1/stream/"
UNAUTHORIZED = 4001
"""The close code for a consumer that is no longer authorised."""
CLOSE_SECONDS = 5.0
"""Seconds that a side has to answer that it is closed."""
MAX_MESSAGE_BYTES = 1 << 26
"""Bytes of one message of a server, which is in memory: its answer to a frame."""


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
        day = self._gateway.limits.count(known.consumer).day
        relay, status, reason = SocketRelay(self._client_timeout), 200, ""

        def end(why: MataError) -> None:
            relay.close(UNAUTHORIZED, why.detail)

        try:
            with self._gateway.grants.hold(known.consumer, known.place, "ws", end):
                async with (
                    await self._connect(known, request) as server_socket,
                    self._gateway.http.raw_socket(request) as client_socket,
                ):
                    await relay.run(client_socket, server_socket)
                    return client_socket
        except (aiohttp.ClientError, OSError) as error:
            gone = getattr(error, "status", 0) == NotFound.status
            status = NotFound.status if gone else UpstreamFailure.status
            reason = "No such session" if gone else "The server of this session cannot be reached"
            if gone:
                raise SessionGone(reason) from None
            raise UpstreamFailure(reason, sent=False) from error
        finally:
            server.end()
            application, route = known.place
            subject = Subject(known.consumer.name, application.name, route.model)
            if relay.is_cut:
                status = UpstreamFailure.status
            self._gateway.usage.note(day, subject, status, *relay.sizes, reason=reason)

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
