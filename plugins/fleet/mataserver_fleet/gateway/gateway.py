"""The door of the data plane: which requests are its own, who may ask, and what it counts."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import aiohttp

from mataserver import MataError, NotFound, check_charset
from mataserver_fleet.gateway import callers, headers, image_requests, matching
from mataserver_fleet.gateway.answers import check_method, linger, problem
from mataserver_fleet.gateway.application_info import ApplicationInfo
from mataserver_fleet.gateway.bodies import BodyLoader, BodyTimeout, BufferedBody, StreamingBody
from mataserver_fleet.gateway.connections import ConnectionPool
from mataserver_fleet.gateway.fast_path import FastPath, FastPathResponder
from mataserver_fleet.gateway.forwarding import Call, Forwarder
from mataserver_fleet.gateway.grants import ConsumerGrants
from mataserver_fleet.gateway.inspection import JsonPart, look
from mataserver_fleet.gateway.known_heads import KnownHead, KnownHeads
from mataserver_fleet.gateway.limits import RateLimiter
from mataserver_fleet.gateway.matching import RouteMatch
from mataserver_fleet.gateway.probes import Prober
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
    from mataserver_fleet.gateway.matching import Scope
    from mataserver_fleet.gateway.options import GatewaySettings
    from mataserver_fleet.gateway.snapshot import Consumer, Place

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
    Client = aiohttp.ClientSession
    Sessions = Callable[["Gateway", Client, Client, float], SessionHandler]


class Gateway:
    """Answers the requests of consumers. ``follow`` says what it goes by.

    ``sessions`` makes what answers for sessions of video, which asks the gateway for its parts;
    ``own`` tells whether this server itself has a model. ``sharing`` are the applications whose
    consumers may name regions of a Triton's shared memory.
    """

    def __init__(
        self,
        http: Http,
        settings: GatewaySettings,
        unread: float,
        sessions: Sessions,
        own: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self.http = http
        self._own_model = own
        self._settings = settings
        self._unread = unread
        self._made = sessions
        self.bodies = BodyLoader(
            int(settings.buffer_mb * 1e6), int(settings.max_body_mb * 1e6), unread
        )
        self._heads = KnownHeads(http.learn, self._repeated, self.bodies.kept, unread)
        self.snapshot = Snapshot()
        self.limits = RateLimiter()
        self.sharing = frozenset(settings.shared_memory)
        self.usage = Usage()
        self.grants = ConsumerGrants()
        self.servers = Servers()
        self.choosing = ServerSelector(self.servers)
        self._own_routes = ApplicationInfo(self.servers)
        self.reaching = AddressResolver(http)

    async def __aenter__(self) -> Self:
        """Be able to ask servers."""
        self._session = aiohttp.ClientSession(
            cookie_jar=aiohttp.DummyCookieJar(),
            connector=aiohttp.TCPConnector(limit=0, resolver=self.reaching, use_dns_cache=False),
        )
        self._within = aiohttp.ClientSession(
            cookie_jar=aiohttp.DummyCookieJar(), connector=SelfConnector(self.http.connect)
        )
        self.links = ConnectionPool(self.servers.clock, self.reaching, self.http.connect)
        probe, timeout = self._settings.probe, self._settings.probe_timeout
        asking = (self._session, self.reaching, self._own_model)
        self._probes = Prober(self.servers, *asking, probe, timeout)
        self._forwarding = Forwarder(
            self.servers, self.choosing, self.links, self._probes, self.grants, self._unread
        )
        self._unattended = FastPath(
            self.servers, self.choosing, self.links, self.limits, self._counted, self._note
        )
        self._streams = self._made(self, self._session, self._within, self._unread)
        self._probes.follow(self.snapshot)
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Ask nobody any more."""
        await self._probes.close()
        await self._forwarding.close()
        self.links.close()
        await self._session.close()
        await self._within.close()

    def _repeated(self, known: KnownHead) -> Responder:
        return FastPathResponder(self._unattended, known, self.http.address)

    def follow(self, snapshot: Snapshot) -> None:
        """Answer by another snapshot from the next request on; those under way keep theirs.

        What may go on for long ends where the snapshot does not grant it.
        """
        self.snapshot = snapshot
        self._heads.forget()
        self.grants.follow(snapshot)
        self._probes.follow(snapshot)
        self.limits.forget({each.id for each in snapshot.consumers.values()})

    def has_elsewhere(self, model: str) -> bool:
        """Whether another mataserver listed a model when it was last looked at."""
        return any(model in self.servers.of(each).models for each in self.snapshot.peers)

    def share(self) -> Share:
        """Return a share of the bytes in flight."""
        return self.http.budget()

    def claims(self, request: web.Request) -> Handler | None:
        """Return what answers a request that is an application's, by its host or its path."""
        host, path = request.headers.get("Host", ""), request.rel_url.raw_path
        found = matching.scope(self.snapshot, host, path)
        if found is None or request.get_extra_info("pipe"):  # which is what the gateway itself asks
            return None
        return functools.partial(self._handle, found)

    async def _handle(self, scope: Scope, request: web.Request) -> web.StreamResponse:
        try:
            return await self._answer(scope, request)
        except MataError as error:
            if error.status == BodyTimeout.status:  # aiohttp would wait for the body much longer
                linger(request)
            return problem(error)

    async def _answer(self, scope: Scope, request: web.Request) -> web.StreamResponse:
        asked = matching.find(scope.places, scope.path)
        if asked is None and scope.path == image_requests.PATH:
            return await self._picture(scope, request)
        if asked is None and scope.path.startswith("/v1/"):
            return await self._streams.answer(scope, request)
        if asked is None:
            return self._own_routes.answer(self.snapshot, scope, request)
        application, route = asked.place
        if "http" not in route.protocols:
            raise NotFound("No such route")
        consumer = callers.consumer(self.snapshot, request, application)
        check_method(request.method, matching.VERBS[asked.verb])
        self.limits.admit(consumer)
        return await self._forward(request, asked, consumer)

    async def _picture(self, scope: Scope, request: web.Request) -> web.StreamResponse:
        """Answer ``POST /v1/infer`` by mataservers. Raises as ``_answer``."""
        callers.check_any(self.snapshot, scope, request)
        check_method(request.method, "POST")
        share = self.share()
        try:
            body = await self.bodies.read(request, share)
            model, kind = image_requests.asked(request, body)
            place = _offered(scope, model)
            consumer = callers.consumer(self.snapshot, request, place.application)
            self.grants.check(consumer, place, "http")  # the place is of the head's time
            self.limits.admit(consumer)
            fields = (
                headers.forth(request.raw_headers, consumer.name, self.http.address(request)) + kind
            )
            call = Call(request, RouteMatch(place, "", IMAGE_VERB), consumer, fields)
            call.body = body
            return await self._counted(call)
        finally:
            share.give_back()

    async def _forward(
        self, request: web.Request, asked: RouteMatch, consumer: Consumer
    ) -> web.StreamResponse:
        share, snapshot = self.share(), self.snapshot  # by which it was judged just now
        address = self.http.address(request)
        passed = headers.passed(request.raw_headers, consumer.name)
        call = Call(request, asked, consumer, passed + headers.origin(address))
        try:
            response = await self._counted(call, share)
        finally:
            share.give_back()
        known = self.snapshot is snapshot  # else it may be judged otherwise by now
        if known and asked.verb == "infer" and response.status == 200:
            given = request.headers
            of_body = headers.body_type(given), JsonPart(given)
            self._heads.learn(request, KnownHead(asked, consumer, passed, *of_body))
        return response

    async def _counted(
        self, call: Call, unread: Share | None = None, first: FirstAttempt | None = None
    ) -> web.StreamResponse:
        """Return the answer to a call, and count it.

        ``unread`` is for a body that is not read, ``first`` as for ``Forwarder.answer``.
        """
        try:
            if unread is not None:
                judged = self.snapshot
                call.body = await self.bodies.read(call.request, unread)
                if self.snapshot is not judged:  # nobody keeps a request open to act with it later
                    self.grants.check(call.consumer, call.asked.place, "http")
            body = call.body
            if (
                first is None
                and call.asked.verb != IMAGE_VERB
                and isinstance(body, (BufferedBody, StreamingBody))
            ):
                await self._look(call, body)
            return await self._forwarding.answer(call, first)
        except MataError as error:
            call.status = error.status
            raise
        finally:
            size = 0 if call.body is None else call.body.size
            self._note(call.consumer, call.asked.place, call.status, size, call.bytes_out)

    async def _look(self, call: Call, body: BufferedBody | StreamingBody) -> None:
        """Note what a body is. Raises for an inference that may not be passed on.

        As JSON that is said to be no UTF-8: the server is told that it is.
        """
        check_charset(call.request)
        given = call.request.headers
        call.fields += headers.body_type(given)
        if call.asked.verb == "infer":
            regions = call.asked.place.application.name in self.sharing
            call.step = await look(body, given, self.share(), regions=regions)

    def _note(self, who: Consumer, place: Place, status: int, taken: int, given: int) -> None:
        """Count an answer, and the bytes of both bodies."""
        subject = Subject(who.name, place.application.name, place.route.model)
        self.usage.note(subject, status, taken, given)


def _offered(scope: Scope, model: str) -> Place:
    """Return the route to a model of mataservers. Raises ``NotFound``."""
    for place in scope.places.values():
        route = place.route
        if route.model == model and "http" in route.protocols:
            if all(each.kind != "triton" for each in route.targets):
                return place
            break
    raise NotFound("No such model")
