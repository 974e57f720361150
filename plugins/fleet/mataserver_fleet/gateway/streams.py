"""Sessions of video at mataservers: made, told of, and their WebSockets relayed, frame by frame.

A session lives in the server that made it: what is asked of it goes there, by the session's id.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp
import msgspec
from aiohttp import WSMsgType, web

from mataserver import BadRequest, InvalidParams, MataError, NotFound, Unavailable
from mataserver_fleet.gateway import headers
from mataserver_fleet.gateway.bodies import Whole
from mataserver_fleet.gateway.exchange import Exchange, Failed, Message
from mataserver_fleet.gateway.relaying import relay, whole_of
from mataserver_fleet.gateway.usage import Subject

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mataserver_fleet.gateway.bodies import Passing
    from mataserver_fleet.gateway.gateway import Gateway
    from mataserver_fleet.gateway.matching import Scope
    from mataserver_fleet.gateway.snapshot import Consumer, Place, Target

    Side = web.WebSocketResponse | aiohttp.ClientWebSocketResponse
    End = tuple[Any, Any]

SESSIONS, STREAM = "/v1/sessions", "/v1/stream/"
MOST = 100_000
"""Sessions that are remembered."""
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
UNAUTHORIZED = 4001
"""The code by which a WebSocket of somebody ends who may not have it."""
CLOSE_SECONDS = 5.0
"""Seconds that a side has to answer that it is closed."""
_LONGEST = 65_536
"""Bytes of a session's description."""
_ENDS = frozenset({WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR})
_CONTENT = frozenset({WSMsgType.TEXT, WSMsgType.BINARY})


class Session(NamedTuple):
    """Where a session is, and whose: names, since places change while it lives."""

    application: str
    model: str
    target: Target
    consumer: int


class Known(NamedTuple):
    """A session that is asked for, and who asks."""

    identity: str
    session: Session
    place: Place
    consumer: Consumer


class Streams:
    """The sessions that were made through this gateway. ``unread`` is in seconds.

    ``client`` asks other servers, ``own`` this one.
    """

    def __init__(
        self,
        gateway: Gateway,
        client: aiohttp.ClientSession,
        own: aiohttp.ClientSession,
        unread: float,
    ) -> None:
        self._gateway = gateway
        self._client = client
        self._own = own
        self._unread = unread
        self._sessions: OrderedDict[str, Session] = OrderedDict()

    async def answer(self, scope: Scope, request: web.Request) -> web.StreamResponse:
        """Answer what is asked of sessions. Raises ``NotFound`` for anything else."""
        if scope.path == SESSIONS and request.method == "POST":
            return await self._create(scope, request)
        if scope.path.startswith(STREAM) and request.method == "GET":
            return await self._stream(self._known(scope, request, STREAM), request)
        if scope.path.startswith(SESSIONS + "/") and request.method in {"GET", "DELETE"}:
            return await self._passed_on(self._known(scope, request, SESSIONS + "/"), request)
        raise NotFound("No such route")

    def _known(self, scope: Scope, request: web.Request, prefix: str) -> Known:
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
        consumer = self._gateway.consumer(request, place.application)
        if consumer.id != session.consumer:
            raise NotFound("No such session")
        self._sessions.move_to_end(identity)
        return Known(identity, session, place, consumer)

    async def _create(self, scope: Scope, request: web.Request) -> web.Response:
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
                Session(place.application.name, model, target, consumer.id),
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
        body: Whole | Passing | None,
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
                return place, self._gateway.consumer(request, place.application)
        raise NotFound("No such model")

    async def _made(
        self,
        place: Place,
        target: Target,
        consumer: Consumer,
        body: Whole | Passing | None,
        request: web.Request,
    ) -> tuple[int, dict[str, Any]]:
        """Return the status and the answer of the server that makes a session."""
        fields = headers.forth(request.raw_headers, consumer.name, self._gateway.address(request))
        fields += b"Content-Type: application/json\r\n"
        message = Message("POST", SESSIONS, fields, body, consumer.id)
        async with self._exchange(place, target, message) as answer:
            raw = await whole_of(answer, place.application.timeout)
            try:
                return answer.status, msgspec.json.decode(raw, type=dict[str, Any])
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                raise Failed("The server answered what is no session", sent=True) from None

    def _kept(
        self, made: Mapping[str, Any], session: Session, scope: Scope, request: web.Request
    ) -> str:
        """Remember a session; return where its WebSocket is for the client."""
        identity = made.get("session_id")
        if not isinstance(identity, str) or not _ID.fullmatch(identity):
            raise Failed("The server answered what is no session", sent=True)
        self._sessions[identity] = session
        if len(self._sessions) > MOST:
            self._sessions.popitem(last=False)
        return f"{self._gateway.url(request, 'ws')}{scope.prefix}{STREAM}{identity}"

    async def _passed_on(self, known: Known, request: web.Request) -> web.StreamResponse:
        """Ask the session's server to tell of it or to end it."""
        identity, session, place, consumer = known
        fields = headers.forth(request.raw_headers, consumer.name, self._gateway.address(request))
        path = f"{SESSIONS}/{identity}"
        message = Message(request.method, path, fields, None, consumer.id)
        async with self._exchange(place, session.target, message) as answer:
            patience = place.application.timeout
            response, _ = await relay(request, answer, patience, self._unread, lambda _: None)
            if request.method == "DELETE" or answer.status == 404:
                self._sessions.pop(identity, None)
            return response

    def _exchange(self, place: Place, target: Target, message: Message) -> Exchange:
        server, seconds = self._gateway.servers.of(target), place.application.timeout
        links = self._gateway.links
        return Exchange(links, target, server, message, seconds, movable=False)

    # the WebSocket

    async def _stream(self, known: Known, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() != "websocket":
            raise BadRequest("This is a WebSocket: connect with a WebSocket client")
        server = self._gateway.servers.of(known.session.target)
        server.begin()
        counts = [0, 0]
        over: asyncio.Future[End] = asyncio.get_running_loop().create_future()
        end = functools.partial(_tell, over)
        try:
            with self._gateway.grants.held(known.consumer, known.place, "ws", end):
                async with (
                    await self._connected(known, request) as far,
                    self._gateway.socket(request) as near,
                ):
                    await self._relayed(near, far, counts, over)
                    return near
        except (aiohttp.ClientError, OSError) as error:
            if getattr(error, "status", 0) == NotFound.status:
                self._sessions.pop(known.identity, None)
                raise NotFound("No such session") from None
            raise Failed("The server of this session cannot be reached", sent=False) from error
        finally:
            server.end()
            self._note(known.place, known.consumer, 200, *counts)

    async def _connected(
        self, known: Known, request: web.Request
    ) -> aiohttp.ClientWebSocketResponse:
        target = known.session.target
        fields = {
            "X-Consumer-Username": known.consumer.name,
            "X-Forwarded-For": self._gateway.address(request),
        }
        if target.token:
            fields["Authorization"] = f"Bearer {target.shown(known.consumer.id)}"
        async with asyncio.timeout(known.place.application.timeout):
            await self._gateway.reaching.check_literal(target)
            client = self._own if target.kind == "own" else self._client
            return await client.ws_connect(
                f"ws://{target.authority}{STREAM}{known.identity}",
                headers=fields,
                autoping=False,
                autoclose=False,
                timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_SECONDS),
                max_msg_size=0,
            )

    async def _relayed(
        self,
        near: web.WebSocketResponse,
        far: aiohttp.ClientWebSocketResponse,
        counts: list[int],
        over: asyncio.Future[End],
    ) -> None:
        """Hand frames over in both directions until either side ends, or ``over`` tells how."""
        pumps = [
            asyncio.ensure_future(self._pump(near, far, counts, 0)),
            asyncio.ensure_future(self._pump(far, near, counts, 1)),
        ]
        end: End = (1001, "")
        try:
            done, _ = await asyncio.wait({*pumps, over}, return_when=asyncio.FIRST_COMPLETED)
            end = next((each.result() for each in done if not each.exception()), end)
            if over.done():
                end = over.result()
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            # Side by side: a client that does not read must not hold up the server's end.
            await asyncio.gather(_close(near, end), _close(far, end))

    async def _pump(self, source: Side, sink: Side, counts: list[int], way: int) -> End:
        """Hand over what comes from a side; return how it ended."""
        while True:
            message = await source.receive()
            if message.type is WSMsgType.CLOSE:
                return message.data, message.extra
            if message.type in _ENDS:
                return source.close_code, ""
            data = message.data.encode() if isinstance(message.data, str) else bytes(message.data)
            if message.type in _CONTENT:
                counts[way] += len(data)
            async with asyncio.timeout(self._unread):
                await sink.send_frame(data, message.type)

    def _note(self, place: Place, consumer: Consumer, status: int, taken: int, given: int) -> None:
        subject = Subject(consumer.name, place.application.name, place.route.model)
        self._gateway.usage.note(subject, status, taken, given)


def _tell(over: asyncio.Future[End], why: MataError) -> None:
    """Have a WebSocket end that its consumer may have no more."""
    if not over.done():
        over.set_result((UNAUTHORIZED, why.detail))


async def _close(side: Side, end: End) -> None:
    """End a side as the other ended; a code that must not be sent becomes 1001."""
    code, reason = end
    sound = isinstance(code, int) and (1000 <= code <= 1014 or 3000 <= code <= 4999)
    known = code if sound and code not in {1004, 1005, 1006} else 1001
    text = reason if isinstance(reason, str) else ""
    with contextlib.suppress(OSError, aiohttp.ClientError):
        async with asyncio.timeout(CLOSE_SECONDS):
            await side.close(code=known, message=text.encode()[:120])


def _asked(body: Whole | Passing | None) -> str:
    """Return the model of a session that is asked for. Raises ``BadRequest``.

    A camera is none of a consumer's to name: the server would connect to it.
    """
    if not isinstance(body, Whole) or body.size > _LONGEST:
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
