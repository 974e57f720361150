"""Video sessions at mataservers: created, described, and their WebSockets relayed frame by frame.

A session lives in the server that made it: requests for it go there, by the session's id.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from mataserver import BadRequest, InvalidParams, MataError, NotFound, Unavailable, check_charset
from mataserver_fleet.gateway import callers, headers
from mataserver_fleet.gateway.answers import MethodNotAllowed, check_method, upstream_method
from mataserver_fleet.gateway.bodies import BufferedBody
from mataserver_fleet.gateway.exchange import (
    Exchange,
    UpstreamFailure,
    UpstreamRequest,
    check_key_accepted,
)
from mataserver_fleet.gateway.relaying import read_body, relay
from mataserver_fleet.gateway.sockets import (
    STREAM_PREFIX,
    GatewaySession,
    RequestedSession,
    SessionGone,
    StreamSockets,
)
from mataserver_fleet.gateway.usage import Subject

if TYPE_CHECKING:
    from collections.abc import Mapping

    import aiohttp

    from mataserver_fleet.gateway.bodies import StreamingBody
    from mataserver_fleet.gateway.gateway import Gateway
    from mataserver_fleet.gateway.matching import Scope
    from mataserver_fleet.gateway.snapshot import Consumer, Place, Target

SESSIONS = "/v1/sessions"
MAX_SESSIONS = 100_000
"""Sessions that are remembered."""
MAX_RESPONSE_BYTES = 1 << 20
"""Bytes of what a server answers about a session that it made."""
_LATER = "retry-after"
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MAX_DESCRIPTION_BYTES = 65_536
"""Bytes of a session's description."""


class VideoSessions:
    """The sessions that were made through this gateway. ``client_timeout`` is in seconds."""

    @classmethod
    def create(
        cls,
        gateway: Gateway,
        client: aiohttp.ClientSession,
        own: aiohttp.ClientSession,
        client_timeout: float,
    ) -> VideoSessions:
        """Return those of a gateway; ``client`` connects to other servers, ``own`` to this one."""
        return cls(gateway, StreamSockets(gateway, client, own, client_timeout), client_timeout)

    def __init__(self, gateway: Gateway, sockets: StreamSockets, client_timeout: float) -> None:
        self._gateway = gateway
        self._client_timeout = client_timeout
        self._sockets = sockets
        self._sessions: OrderedDict[str, GatewaySession] = OrderedDict()

    async def answer(self, scope: Scope, request: web.Request) -> web.StreamResponse:
        """Answer a request for sessions. Raises ``NotFound`` and ``MethodNotAllowed``."""
        if scope.path == SESSIONS:
            callers.check_any(self._gateway.snapshot, scope, request)
            check_method(request.method, "POST")
            return await self._create(scope, request)
        if scope.path.startswith(STREAM_PREFIX):
            known = self._requested_session(scope, request, STREAM_PREFIX)
            if request.method != "GET":
                raise MethodNotAllowed("GET")
            return await self._stream(known, request)
        if scope.path.startswith(SESSIONS + "/"):
            known = self._requested_session(scope, request, SESSIONS + "/")
            check_method(request.method, "GET", "DELETE")
            return await self._forward(known, request)
        raise NotFound("No such route")

    def _requested_session(
        self, scope: Scope, request: web.Request, prefix: str
    ) -> RequestedSession:
        """Return a session of the caller. Raises ``NotFound``, also for another's."""
        session_id = scope.path.removeprefix(prefix)
        session = self._sessions.get(session_id)
        if session is None:
            raise NotFound("No such session")
        for place in scope.places.values():
            if (place.application.name, place.route.model) == session[:2]:
                break
        else:
            raise NotFound("No such session")
        consumer = callers.authenticate(self._gateway.snapshot, request, place.application)
        if consumer.id != session.consumer:
            raise NotFound("No such session")
        self._sessions.move_to_end(session_id)
        return RequestedSession(session_id, session, place, consumer)

    async def _create(self, scope: Scope, request: web.Request) -> web.Response:
        check_charset(request)
        share = self._gateway.share()
        try:
            body = await self._gateway.bodies.read(request, share)
            model = _model_in_json(body)
            place, consumer = self._place(scope, request, model)
            self._gateway.grants.check(consumer, place, "ws")  # the place is of the head's time
            day = self._gateway.admissions.admit(consumer, place).day
            target, status, made, later = await self._create_counted(
                place, consumer, body, request, day
            )
        finally:
            share.give_back()
        if status == 201:
            made["ws_url"] = self._remember(
                made,
                GatewaySession(place.application.name, model, target, consumer.id),
                scope,
                request,
            )
        return web.Response(
            body=msgspec.json.encode(made), status=status, content_type=headers.JSON, headers=later
        )

    async def _create_counted(
        self,
        place: Place,
        consumer: Consumer,
        body: BufferedBody | StreamingBody | None,
        request: web.Request,
        day: int,
    ) -> tuple[Target, int, dict[str, Any], dict[str, str]]:
        """Return which server was asked for a session, and as ``_create_at``; count it."""
        status, reason = Unavailable.status, ""
        try:
            destination = self._gateway.selector.choose(place, "")
            if destination is None:
                raise Unavailable("The model is not ready on any server", retry_after=1)
            status, made, later = await self._create_at(
                place, destination.target, consumer, body, request
            )
        except MataError as error:
            status, reason = error.status, error.detail
            raise
        finally:
            subject = Subject(consumer.name, place.application.name, place.route.model)
            self._gateway.usage.note(day, subject, status, 0, 0, reason=reason)
        return destination.target, status, made, later

    def _place(self, scope: Scope, request: web.Request, model: str) -> tuple[Place, Consumer]:
        """Return a model's route, and the consumer. Raises ``NotFound``, as ``authenticate``."""
        for place in scope.places.values():
            if place.route.model == model and "ws" in place.route.protocols:
                return place, callers.authenticate(
                    self._gateway.snapshot, request, place.application
                )
        raise NotFound("No such model")

    async def _create_at(
        self,
        place: Place,
        target: Target,
        consumer: Consumer,
        body: BufferedBody | StreamingBody | None,
        request: web.Request,
    ) -> tuple[int, dict[str, Any], dict[str, str]]:
        """Return a server's status and answer, and when to ask it again for a session."""
        fields = headers.request_headers(
            request.raw_headers, consumer.name, self._gateway.http.address(request)
        )
        fields += b"Content-Type: application/json\r\n"
        message = UpstreamRequest("POST", SESSIONS, fields, body, consumer.id)
        async with self._exchange(place, target, message) as answer:
            check_key_accepted(target, answer.status)
            raw = await read_body(answer, place.application.timeout, MAX_RESPONSE_BYTES)
            try:
                made = msgspec.json.decode(raw, type=dict[str, Any])
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                raise UpstreamFailure("The server's answer is not a session", sent=True) from None
            later = {
                n: v for n, v in headers.response_headers(answer.fields) if n.lower() == _LATER
            }
            return answer.status, made, later

    def _remember(
        self, made: Mapping[str, Any], session: GatewaySession, scope: Scope, request: web.Request
    ) -> str:
        """Remember a session; return where its WebSocket is for the client."""
        session_id = made.get("session_id")
        if not isinstance(session_id, str) or not _ID.fullmatch(session_id):
            raise UpstreamFailure("The server's answer is not a session", sent=True)
        self._sessions[session_id] = session
        if len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)
        return f"{self._gateway.http.url(request, 'ws')}{scope.prefix}{STREAM_PREFIX}{session_id}"

    async def _forward(self, known: RequestedSession, request: web.Request) -> web.StreamResponse:
        """Forward a read or a delete to the session's server."""
        session_id, session, place, consumer = known
        fields = headers.request_headers(
            request.raw_headers, consumer.name, self._gateway.http.address(request)
        )
        path = f"{SESSIONS}/{session_id}"
        message = UpstreamRequest(upstream_method(request.method), path, fields, None, consumer.id)
        async with self._exchange(place, session.target, message) as answer:
            check_key_accepted(session.target, answer.status)
            server_timeout = place.application.timeout
            response, _ = await relay(
                request, answer, server_timeout, self._client_timeout, lambda _: None
            )
            if request.method == "DELETE" or answer.status == 404:
                self._sessions.pop(session_id, None)
            return response

    def _exchange(self, place: Place, target: Target, message: UpstreamRequest) -> Exchange:
        server, seconds = self._gateway.servers.get(target), place.application.timeout
        connections = self._gateway.connections
        return Exchange(connections, target, server, message, seconds, movable=False)

    async def _stream(self, known: RequestedSession, request: web.Request) -> web.StreamResponse:
        try:
            return await self._sockets.relay(known, request)
        except SessionGone:
            self._sessions.pop(known.session_id, None)
            raise


def _model_in_json(body: BufferedBody | StreamingBody | None) -> str:
    """Return the model that a session's description names. Raises ``BadRequest``.

    A camera is none of a consumer's to name: the server would connect to it.
    """
    if not isinstance(body, BufferedBody) or body.size > _MAX_DESCRIPTION_BYTES:
        raise BadRequest("The body must be a session's description")
    try:
        asked = msgspec.json.decode(b"".join(body.pieces), type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadRequest("The body is not valid JSON") from None
    if asked.get("source") is not None:
        raise InvalidParams("source: an application accepts frames and cannot open a camera")
    model = asked.get("model")
    if not isinstance(model, str):
        raise InvalidParams("model: field is required")
    return model
