"""Forwards an authorised request: selects servers and retries failures."""

from __future__ import annotations

import asyncio
import functools
import logging
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from mataserver import MataError, Unavailable
from mataserver_fleet.gateway.answers import upstream_method
from mataserver_fleet.gateway.bodies import BufferedBody
from mataserver_fleet.gateway.exchange import (
    Exchange,
    UpstreamFailure,
    UpstreamRequest,
    check_key_accepted,
)
from mataserver_fleet.gateway.http1 import MalformedError
from mataserver_fleet.gateway.relaying import CLIENT_CLOSED, relay
from mataserver_fleet.gateway.snapshot import IMAGE_VERB

if TYPE_CHECKING:
    from aiohttp import web

    from mataserver_fleet.gateway.bodies import SentBody, StreamingBody
    from mataserver_fleet.gateway.connections import ConnectionPool
    from mataserver_fleet.gateway.exchange import SentMessage, UpstreamResponse
    from mataserver_fleet.gateway.grants import ConsumerGrants
    from mataserver_fleet.gateway.limits import Admission
    from mataserver_fleet.gateway.matching import RouteMatch
    from mataserver_fleet.gateway.mirroring import Mirror
    from mataserver_fleet.gateway.probes import Prober
    from mataserver_fleet.gateway.selection import ServerSelector
    from mataserver_fleet.gateway.sequences import Destination, SequenceStep
    from mataserver_fleet.gateway.servers import Servers
    from mataserver_fleet.gateway.snapshot import Consumer

PAUSE, MAX_PAUSE = 0.05, 0.5
"""Seconds before a retry once all servers failed: doubled each time, up to the maximum."""
_MODEL_MISSING_STATUSES = frozenset({400, 404, 503})
"""Statuses by which a server may say that it has no such model now: 400 is a Triton's."""
_MODEL_NOT_READY = 503
_VISIBLE = "".join(map(chr, range(0x21, 0x7F)))

log = logging.getLogger("mataserver.plugin.fleet")


class FirstAttempt(NamedTuple):
    """The first try of a call, which was made already: whom it asks, and how far it is.

    deadline: of the call, however often it is tried; the loop's time.
    """

    destination: Destination
    begun: SentMessage
    deadline: float


class Call:
    """An authorised request and its outcome.

    admission, status: what is counted, also where no client received it.
    """

    __slots__ = (
        "admission",
        "body",
        "bytes_out",
        "consumer",
        "destination",
        "fields",
        "match",
        "request",
        "status",
        "step",
    )  # fmt: skip

    def __init__(
        self, request: web.Request, match: RouteMatch, consumer: Consumer, fields: bytes
    ) -> None:
        self.request = request
        self.match = match
        self.consumer = consumer
        self.fields = fields
        self.admission: Admission
        self.body: BufferedBody | StreamingBody | SentBody | None = None
        self.status, self.bytes_out = CLIENT_CLOSED, 0
        self.step: SequenceStep | None = None
        self.destination: Destination | None = None

    @property
    def replayable(self) -> bool:
        """Whether the request can be sent a second time."""
        return self.body is None or not self.body.begun

    def count(self, size: int) -> None:
        """Count bytes that were forwarded."""
        self.bytes_out += size


class Forwarder:
    """Sends calls to servers. ``unread`` is how many seconds a client may not read."""

    def __init__(
        self,
        servers: Servers,
        selector: ServerSelector,
        connections: ConnectionPool,
        prober: Prober,
        grants: ConsumerGrants,
        *,
        mirror: Mirror,
        unread: float = 30.0,
    ) -> None:
        self._grants = grants
        self._mirror = mirror
        self._servers = servers
        self._selector = selector
        self._connections = connections
        self._prober = prober
        self._unread = unread

    async def answer(self, call: Call, first: FirstAttempt | None = None) -> web.StreamResponse:
        """Return the answer; ``first`` is the attempt already made of a call without a sequence.

        Raises ``UpstreamFailure`` and ``Unavailable``.
        """
        if first is None and call.match.verb == "infer" and call.body is not None:
            call.destination = self._selector.bound_destination(
                *call.match[:2], call.step, call.consumer.id
            )
            self._start_copy(call)
        place, version, _ = call.match
        application = place.application
        now = asyncio.get_running_loop().time()
        deadline = now + application.timeout if first is None else first.deadline
        destination, begun = (None, None) if first is None else (first.destination, first.begun)
        tried: set[str] = set()
        pause = PAUSE
        failure: UpstreamFailure | None = None
        try:
            for _ in range(application.retries + 1):
                if begun is None:
                    destination = self._selector.choose(place, version, call.destination, tried)
                if (
                    destination is None and tried
                ):  # every server that may be alive was tried: try again
                    await asyncio.sleep(pause)
                    tried.clear()
                    pause = min(2 * pause, MAX_PAUSE)
                    destination = self._selector.choose(place, version, call.destination, tried)
                if destination is None:
                    break
                try:
                    return await self._attempt(call, destination, deadline, tried, begun)
                except UpstreamFailure as error:
                    failure, begun = error, None
                    if error.status != _MODEL_NOT_READY:
                        self._servers.get(destination.target).mark_suspect()
                    if not self._can_retry(call, error):
                        raise
                    tried.add(destination.target.url)
            raise failure or Unavailable("The model is not ready on any server", retry_after=1)
        finally:
            failure = None  # its traceback holds this frame, and so the body: a reference cycle

    def _can_retry(self, call: Call, failure: UpstreamFailure) -> bool:
        """Whether a failed request is retried; one of a sequence is not."""
        if call.destination is not None or not call.replayable:
            return False
        if failure.begun or failure.status == 504:
            return False
        return not failure.sent or call.match.place.application.resend

    async def _attempt(
        self,
        call: Call,
        destination: Destination,
        deadline: float,
        tried: set[str],
        begun: SentMessage | None,
    ) -> web.StreamResponse:
        route, verb = call.match.place.route, call.match.verb
        server = self._servers.get(destination.target)
        if begun is None:
            seconds = max(0.001, deadline - asyncio.get_running_loop().time())
        else:
            seconds = call.match.place.application.timeout
        movable = (
            call.replayable and call.destination is None and call.match.place.application.resend
        )
        path = with_query(route.path(destination.version, verb), call.request)
        method = upstream_method(call.request.method)
        message = UpstreamRequest(method, path, call.fields, call.body, call.consumer.id)
        async with Exchange(
            self._connections,
            destination.target,
            server,
            message,
            seconds,
            movable=movable,
            begun=begun,
        ) as answer:
            check_key_accepted(destination.target, answer.status)
            if answer.status in _MODEL_MISSING_STATUSES:
                await self._check_model_missing(call, destination, tried)
            if call.step is not None:
                self._selector.bind(call.match.place, call.step, destination, call.consumer.id)
            if answer.length is not None:
                return await self._relay(call, answer)
            # An answer without a length may never end, as event streams do.
            cut = functools.partial(_abort, call.request)
            with self._grants.hold(call.consumer, call.match.place, "http", cut):
                return await self._relay(call, answer)

    async def _relay(self, call: Call, answer: UpstreamResponse) -> web.StreamResponse:
        patience = call.match.place.application.timeout
        response, call.status = await relay(
            call.request, answer, patience, self._unread, call.count
        )
        return response

    async def _check_model_missing(
        self, call: Call, destination: Destination, tried: set[str]
    ) -> None:
        """Raise ``UpstreamFailure`` for an answer that says that the model is not here.

        A Triton that just restarted says 400 for each model that it does not have yet; one that is
        late may have it. What the last one says of a version that the client named is the client's.
        """
        place, version, verb = call.match
        own = destination.target.kind == "own"
        if own or verb not in {"infer", IMAGE_VERB} or call.destination is not None:
            return
        path = place.route.path(destination.version, "ready")
        server = self._servers.get(destination.target)
        has = await self._prober.probe(destination.target, server, path)
        if has or (has is None and server.is_alive):
            return
        attempted = tried | {destination.target.url}
        if version and self._selector.choose(place, version, None, attempted) is None:
            return
        raise UpstreamFailure(
            "The model is not ready on the server", sent=False, status=_MODEL_NOT_READY
        )

    # copies

    def _start_copy(self, call: Call) -> None:
        """Send a copy to the mirrored version; its answer is not awaited."""
        body = call.body
        if call.match.place.route.mirror and call.step is None and isinstance(body, BufferedBody):
            self._mirror.start(functools.partial(self._copy, call, body))

    async def _copy(self, call: Call, body: BufferedBody) -> None:
        application, route = call.match.place
        path = route.path(route.mirror, "ready")
        target = self._servers.pick(route.targets, path)
        if target is None:
            return
        path = route.path(route.mirror, "infer")
        message = UpstreamRequest("POST", path, call.fields, body, call.consumer.id)
        server, seconds = self._servers.get(target), application.timeout
        try:
            async with (
                Exchange(
                    self._connections, target, server, message, seconds, movable=False
                ) as answer,
                asyncio.timeout(seconds),
            ):
                while await answer.chunk():
                    pass
        except (MataError, OSError, MalformedError) as error:
            log.info("a copy for version %s failed: %s", route.mirror, type(error).__name__)


def _abort(request: web.Request, _why: MataError) -> None:
    """Abort a connection, so that a partial answer is not taken for a complete one."""
    if request.transport is not None:
        request.transport.abort()


def with_query(path: str, request: web.Request) -> str:
    """Return a path with a client's query; what may not stand in one is encoded."""
    query = request.rel_url.raw_query_string
    return f"{path}?{quote(query, safe=_VISIBLE)}" if query else path
