"""Sessions of video at mataservers: made, told of, and their WebSockets relayed, frame by frame.

A session lives in the server that made it: what is asked of it goes there, by the session's id.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from mataserver import BadRequest, InvalidParams, MataError, NotFound, Unavailable, check_charset
from mataserver_fleet.gateway import callers, headers
from mataserver_fleet.gateway.answers import MethodNotAllowed, asked_as, check_method
from mataserver_fleet.gateway.bodies import BufferedBody
from mataserver_fleet.gateway.exchange import Exchange, UpstreamFailure, UpstreamRequest
from mataserver_fleet.gateway.relaying import relay, whole_of
from mataserver_fleet.gateway.sockets import (
    STREAM,
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
MOST = 100_000
"""Sessions that are remembered."""
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_LONGEST = 65_536
"""Bytes of a session's description."""


class VideoSessions:
    """The sessions that were made through this gateway. ``unread`` is in seconds."""

    @classmethod
    def over(
        cls,
        gateway: Gateway,
        client: aiohttp.ClientSession,
        own: aiohttp.ClientSession,
        unread: float,
    ) -> VideoSessions:
        """Return those of a gateway; ``client`` connects to other servers, ``own`` to this one."""
        return cls(gateway, StreamSockets(gateway, client, own, unread), unread)

    def __init__(self, gateway: Gateway, sockets: StreamSockets, unread: float) -> None:
        self._gateway = gateway
        self._unread = unread
        self._sockets = sockets
        self._sessions: OrderedDict[str, GatewaySession] = OrderedDict()

    async def answer(self, scope: Scope, request: web.Request) -> web.StreamResponse:
        """Answer what is asked of sessions. Raises ``NotFound`` and ``MethodNotAllowed``."""
        if scope.path == SESSIONS:
            callers.check_any(self._gateway.snapshot, scope, request)
            check_method(request.method, "POST")
            return await self._create(scope, request)
        if scope.path.startswith(STREAM):
            known = self._known(scope, request, STREAM)
            if request.method != "GET":
                raise MethodNotAllowed("GET")
            return await self._stream(known, request)
        if scope.path.startswith(SESSIONS + "/"):
            known = self._known(scope, request, SESSIONS + "/")
            check_method(request.method, "GET", "DELETE")
            return await self._passed_on(known, request)
        raise NotFound("No such route")

    def _known(self, scope: Scope, request: web.Request, prefix: str) -> RequestedSession:
        """Return a session of who asks. Raises ``NotFound``, also for another's."""
        identity = scope.path.removeprefix(prefix)
        session = self._sessions.get(identity)
        if session is None:
            raise NotFound("No such session")
        for place in scope.places.values():
            if (place.application.name, place.route.model) == session[:2]:
                break
        else:
            raise NotFound("No such session")
        consumer = callers.consumer(self._gateway.snapshot, request, place.application)
        if consumer.id != session.consumer:
            raise NotFound("No such session")
        self._sessions.move_to_end(identity)
        return RequestedSession(identity, session, place, consumer)

    async def _create(self, scope: Scope, request: web.Request) -> web.Response:
        check_charset(request)
        share = self._gateway.share()
        try:
            body = await self._gateway.bodies.read(request, share)
            model = _asked(body)
            place, consumer = self._place(scope, request, model)
            self._gateway.limits.admit(consumer)
            target, status, made = await self._counted(place, consumer, body, request)
        finally:
            share.give_back()
        if status == 201:
            made["ws_url"] = self._kept(
                made,
                GatewaySession(place.application.name, model, target, consumer.id),
                scope,
                request,
            )
        return web.Response(
            body=msgspec.json.encode(made), status=status, content_type=headers.JSON
        )

    async def _counted(
        self,
        place: Place,
        consumer: Consumer,
        body: BufferedBody | StreamingBody | None,
        request: web.Request,
    ) -> tuple[Target, int, dict[str, Any]]:
        """Return which server was asked for a session, the status and the answer; count it."""
        status = Unavailable.status
        try:
            pin = self._gateway.choosing.choose(place, "")
            if pin is None:
                raise Unavailable("No server has the model ready now", retry_after=1)
            status, made = await self._made(place, pin.target, consumer, body, request)
        except MataError as error:
            status = error.status
            raise
        finally:
            self._note(place, consumer, status, 0, 0)
        return pin.target, status, made

    def _place(self, scope: Scope, request: web.Request, model: str) -> tuple[Place, Consumer]:
        """Return the route to a model, and who asks. Raises ``NotFound`` and as ``consumer``."""
        for place in scope.places.values():
            if place.route.model == model and "ws" in place.route.protocols:
                return place, callers.consumer(self._gateway.snapshot, request, place.application)
        raise NotFound("No such model")

    async def _made(
        self,
        place: Place,
        target: Target,
        consumer: Consumer,
        body: BufferedBody | StreamingBody | None,
        request: web.Request,
    ) -> tuple[int, dict[str, Any]]:
        """Return the status and the answer of the server that makes a session."""
        fields = headers.forth(
            request.raw_headers, consumer.name, self._gateway.http.address(request)
        )
        fields += b"Content-Type: application/json\r\n"
        message = UpstreamRequest("POST", SESSIONS, fields, body, consumer.id)
        async with self._exchange(place, target, message) as answer:
            raw = await whole_of(answer, place.application.timeout)
            try:
                return answer.status, msgspec.json.decode(raw, type=dict[str, Any])
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                raise UpstreamFailure("The server answered what is no session", sent=True) from None

    def _kept(
        self, made: Mapping[str, Any], session: GatewaySession, scope: Scope, request: web.Request
    ) -> str:
        """Remember a session; return where its WebSocket is for the client."""
        identity = made.get("session_id")
        if not isinstance(identity, str) or not _ID.fullmatch(identity):
            raise UpstreamFailure("The server answered what is no session", sent=True)
        self._sessions[identity] = session
        if len(self._sessions) > MOST:
            self._sessions.popitem(last=False)
        return f"{self._gateway.http.url(request, 'ws')}{scope.prefix}{STREAM}{identity}"

    async def _passed_on(self, known: RequestedSession, request: web.Request) -> web.StreamResponse:
        """Ask the session's server to tell of it or to end it."""
        identity, session, place, consumer = known
        fields = headers.forth(
            request.raw_headers, consumer.name, self._gateway.http.address(request)
        )
        path = f"{SESSIONS}/{identity}"
        message = UpstreamRequest(asked_as(request.method), path, fields, None, consumer.id)
        async with self._exchange(place, session.target, message) as answer:
            patience = place.application.timeout
            response, _ = await relay(request, answer, patience, self._unread, lambda _: None)
            if request.method == "DELETE" or answer.status == 404:
                self._sessions.pop(identity, None)
            return response

    def _exchange(self, place: Place, target: Target, message: UpstreamRequest) -> Exchange:
        server, seconds = self._gateway.servers.of(target), place.application.timeout
        links = self._gateway.links
        return Exchange(links, target, server, message, seconds, movable=False)

    async def _stream(self, known: RequestedSession, request: web.Request) -> web.StreamResponse:
        try:
            return await self._sockets.relay(known, request)
        except SessionGone:
            self._sessions.pop(known.identity, None)
            raise

    def _note(self, place: Place, consumer: Consumer, status: int, taken: int, given: int) -> None:
        subject = Subject(consumer.name, place.application.name, place.route.model)
        self._gateway.usage.note(subject, status, taken, given)


def _asked(body: BufferedBody | StreamingBody | None) -> str:
    """Return the model of a session that is asked for. Raises ``BadRequest``.

    A camera is none of a consumer's to name: the server would connect to it.
    """
    if not isinstance(body, BufferedBody) or body.size > _LONGEST:
        raise BadRequest("The body must be a session's description")
    try:
        asked = msgspec.json.decode(b"".join(body.pieces), type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadRequest("The body is not valid JSON") from None
    if asked.get("source") is not None:
        raise InvalidParams("source: an application takes frames, and opens no camera")
    model = asked.get("model")
    if not isinstance(model, str):
        raise InvalidParams("model: field is required")
    return model
