"""The entry of the data plane: claims requests, authenticates consumers and counts usage."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING

import aiohttp

from mataserver import MataError, NotFound, check_charset
from mataserver_fleet.gateway import callers, headers, image_requests, matching
from mataserver_fleet.gateway.admissions import Admissions
from mataserver_fleet.gateway.answers import check_method, linger, problem
from mataserver_fleet.gateway.application_info import ApplicationInfo
from mataserver_fleet.gateway.bodies import (
    BodyLoader,
    BodyTimeout,
    BufferedBody,
    StreamingBody,
)
from mataserver_fleet.gateway.clients import client_session
from mataserver_fleet.gateway.connections import ConnectionPool
from mataserver_fleet.gateway.fast_path import FastPath, FastPathResponder
from mataserver_fleet.gateway.forwarding import Call, Forwarder
from mataserver_fleet.gateway.grants import ConsumerGrants
from mataserver_fleet.gateway.inspection import JsonPart, inspect_body
from mataserver_fleet.gateway.known_heads import KnownHead, KnownHeads, owner_of
from mataserver_fleet.gateway.limits import RateLimiter
from mataserver_fleet.gateway.matching import RouteMatch
from mataserver_fleet.gateway.mirroring import Mirror
from mataserver_fleet.gateway.probes import Prober
from mataserver_fleet.gateway.relaying import CLIENT_CLOSED
from mataserver_fleet.gateway.resolving import AddressResolver
from mataserver_fleet.gateway.selection import ServerSelector
from mataserver_fleet.gateway.self_connector import SelfConnector
from mataserver_fleet.gateway.servers import Servers
from mataserver_fleet.gateway.snapshot import IMAGE_VERB, Snapshot
from mataserver_fleet.gateway.usage import Subject, Usage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Self

    from aiohttp import web

    from mataserver import Responder, Share
    from mataserver_fleet.gateway.forwarding import FirstAttempt
    from mataserver_fleet.gateway.host_api import Http, SessionHandler
    from mataserver_fleet.gateway.limits import Admission
    from mataserver_fleet.gateway.matching import Scope
    from mataserver_fleet.gateway.options import GatewaySettings
    from mataserver_fleet.gateway.snapshot import Consumer, Place

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
    Client = aiohttp.ClientSession
    SessionHandlerFactory = Callable[["Gateway", Client, Client, float], SessionHandler]


class Gateway:
    """Answers the requests of consumers, by the snapshot that ``follow`` sets.

    make_sessions:      makes the handler of video sessions, which uses the gateway's components.
    own:                whether this server itself has a model.
    shared_memory_apps: the applications whose consumers may name regions of a Triton's shared
                        memory.
    """

    def __init__(
        self,
        http: Http,
        settings: GatewaySettings,
        unread: float,
        make_sessions: SessionHandlerFactory,
        own: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self.http = http
        self._own_model = own
        self._settings = settings
        self._unread = unread
        self._make_sessions = make_sessions
        sizes = round(settings.buffer_mb * 1e6), round(settings.max_body_mb * 1e6)
        self.bodies = BodyLoader(*sizes, unread)
        limit = self.bodies.buffer_bytes
        self._known_heads = KnownHeads(http.learn, self._responder, limit, unread)
        self.snapshot = Snapshot()
        self.limits = RateLimiter()
        self.shared_memory_apps = frozenset(settings.shared_memory)
        self.usage = Usage()
        self.admissions = Admissions(self.limits, self.usage.failures)
        self.grants = ConsumerGrants()
        self.mirror = Mirror()
        self.servers = Servers()
        self.selector = ServerSelector(self.servers)
        self._application_info = ApplicationInfo(self.servers)
        self.resolver = AddressResolver(http)

    async def __aenter__(self) -> Self:
        """Open the connections to servers."""
        self._session = client_session(
            aiohttp.TCPConnector(limit=0, resolver=self.resolver, use_dns_cache=False)
        )
        self._self_session = client_session(SelfConnector(self.http.connect))
        self.connections = ConnectionPool(self.servers.clock, self.resolver, self.http.connect)
        probe, timeout = self._settings.probe, self._settings.probe_timeout
        asking = (self._session, self.resolver, self._own_model)
        self.prober = Prober(self.servers, *asking, probe, timeout)
        routing = (self.servers, self.selector, self.connections)
        onward = *routing, self.prober, self.grants
        self._forwarding = Forwarder(*onward, mirror=self.mirror, unread=self._unread)
        count = functools.partial(_count, self.usage)
        self._fast_path = FastPath(*routing, self.admissions.admit, self._answer_counted, count)
        self._video_sessions = self._make_sessions(
            self, self._session, self._self_session, self._unread
        )
        self.prober.follow(self.snapshot)
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close the connections to servers."""
        await self.prober.close()
        await self.mirror.close()
        self.connections.close()
        await self._session.close()
        await self._self_session.close()

    def _responder(self, known: KnownHead) -> Responder:
        return FastPathResponder(self._fast_path, known, self.http.address)

    def follow(self, snapshot: Snapshot) -> None:
        """Use another snapshot from the next request on; requests in flight keep theirs.

        Long-lived streams end where the snapshot no longer permits them.
        """
        self.snapshot = snapshot
        self._known_heads.forget()
        self.grants.follow(snapshot)
        self.prober.follow(snapshot)
        self.limits.forget({each.id for each in snapshot.consumers.values()})

    def has_peer_model(self, model: str) -> bool:
        """Whether another mataserver listed a model when it was last looked at."""
        return any(model in self.servers.get(each).models for each in self.snapshot.peers)

    def share(self, consumer: Consumer | None = None) -> Share:
        """Return a share of the bytes in flight, within that of a consumer who is known."""
        return self.http.budget(None if consumer is None else owner_of(consumer))

    def claims(self, request: web.Request) -> Handler | None:
        """Return the handler of an application's request, by its host or its path; else None."""
        host, path = request.headers.get("Host", ""), request.rel_url.raw_path
        found = matching.find_scope(self.snapshot, host, path)
        if found is None or request.get_extra_info("pipe"):  # a request of the gateway itself
            return None
        return functools.partial(self._handle, found)

    async def _handle(self, scope: Scope, request: web.Request) -> web.StreamResponse:
        try:
            return await self._answer(scope, request)
        except MataError as error:
            self.admissions.note_unlinked(error)
            if error.status == BodyTimeout.status:  # aiohttp would wait for the body much longer
                linger(request)
            return problem(error)

    async def _answer(self, scope: Scope, request: web.Request) -> web.StreamResponse:
        match = matching.match_route(scope.places, scope.path)
        if match is None and scope.path == image_requests.PATH:
            return await self._answer_infer(scope, request)
        if match is None and scope.path.startswith("/v1/"):
            return await self._video_sessions.answer(scope, request)
        if match is None:
            return self._application_info.answer(self.snapshot, scope, request)
        application, route = match.place
        if "http" not in route.protocols:
            raise NotFound("No such route")
        consumer = callers.authenticate(self.snapshot, request, application)
        check_method(request.method, matching.VERBS[match.verb])
        return await self._forward(
            request, match, consumer, self.admissions.admit(consumer, match.place)
        )

    async def _answer_infer(self, scope: Scope, request: web.Request) -> web.StreamResponse:
        """Answer ``POST /v1/infer`` by mataservers. Raises as ``_answer``."""
        callers.check_any(self.snapshot, scope, request)
        check_method(request.method, "POST")
        share = self.share()
        try:
            body = await self.bodies.read(request, share)
            model, kind = image_requests.requested_model(request, body)
            place = _find_place(scope, model)
            consumer = callers.authenticate(self.snapshot, request, place.application)
            self.grants.check(consumer, place, "http")  # the place is of the head's time
            admission = self.admissions.admit(consumer, place)
            address = self.http.address(request)
            fields = headers.request_headers(request.raw_headers, consumer.name, address)
            call = Call(request, RouteMatch(place, "", IMAGE_VERB), consumer, fields + kind)
            call.admission, call.body = admission, body
            return await self._answer_counted(call)
        finally:
            share.give_back()

    async def _forward(
        self, request: web.Request, match: RouteMatch, consumer: Consumer, admission: Admission
    ) -> web.StreamResponse:
        share, snapshot = self.share(consumer), self.snapshot  # by which it was authorised
        address = self.http.address(request)
        passed = headers.forwarded_headers(request.raw_headers, consumer.name)
        call = Call(request, match, consumer, passed + headers.forwarded_for(address))
        call.admission = admission
        try:
            response = await self._answer_counted(call, share)
        finally:
            share.give_back()
        known = self.snapshot is snapshot  # else the authorisation may have changed
        if known and match.verb == "infer" and response.status == 200:
            given = request.headers
            of_body = headers.body_type(given), JsonPart(given)
            self._known_heads.learn(request, KnownHead(match, consumer, passed, *of_body))
        return response

    async def _answer_counted(
        self, call: Call, unread: Share | None = None, first: FirstAttempt | None = None
    ) -> web.StreamResponse:
        """Return the answer to a call, and count it.

        ``unread`` is for a body that is not read, ``first`` as for ``Forwarder.answer``.
        """
        reason = ""
        try:
            if unread is not None:
                judged_by = self.snapshot
                call.body = await self.bodies.read(call.request, unread)
                # A request that is kept open must not outlive the consumer's permission.
                if self.snapshot is not judged_by:
                    self.grants.check(call.consumer, call.match.place, "http")
            body, tensors = call.body, call.match.verb != IMAGE_VERB
            if first is None and tensors and isinstance(body, (BufferedBody, StreamingBody)):
                await self._inspect(call, body)
            return await self._forwarding.answer(call, first)
        except MataError as error:
            call.status, reason = error.status, error.detail
            raise
        finally:
            sizes = 0 if call.body is None else call.body.size, call.bytes_out
            of = call.consumer, call.match.place, call.status
            _count(self.usage, *of, sizes, call.admission, reason=reason)

    async def _inspect(self, call: Call, body: BufferedBody | StreamingBody) -> None:
        """Set the type of a body, and inspect an inference. Raises for one that is refused.

        So is JSON with a charset other than UTF-8: the server would receive it as UTF-8.
        """
        check_charset(call.request)
        given = call.request.headers
        call.fields += headers.body_type(given)
        if call.match.verb == "infer":
            regions = call.match.place.application.name in self.shared_memory_apps
            call.step = await inspect_body(body, given, self.share(), regions=regions)


def _count(
    usage: Usage,
    who: Consumer,
    place: Place,
    status: int,
    sizes: tuple[int, int],
    granted: Admission,
    *,
    reason: str = "",
) -> None:
    """Count an answer, the bytes of both bodies, and the time unless the client left."""
    subject = Subject(who.name, place.application.name, place.route.model)
    took = None if status == CLIENT_CLOSED else time.monotonic() - granted.begun
    usage.note(granted.day, subject, status, *sizes, took, reason=reason)


def _find_place(scope: Scope, model: str) -> Place:
    """Return the route to a model of mataservers. Raises ``NotFound``."""
    for place in scope.places.values():
        route = place.route
        if route.model == model and "http" in route.protocols:
            if all(each.kind != "triton" for each in route.targets):
                return place
            break
    raise NotFound("No such model")
