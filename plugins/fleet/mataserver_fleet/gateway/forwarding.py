"""From a request that may be answered to an answer: which server, and what if it fails."""

from __future__ import annotations

import asyncio
import functools
import logging
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from mataserver import MataError, Unavailable
from mataserver_fleet.gateway.answers import asked_as
from mataserver_fleet.gateway.bodies import BufferedBody
from mataserver_fleet.gateway.exchange import Exchange, UpstreamFailure, UpstreamRequest
from mataserver_fleet.gateway.http1 import MalformedError
from mataserver_fleet.gateway.relaying import relay
from mataserver_fleet.gateway.snapshot import IMAGE_VERB

if TYPE_CHECKING:
    from aiohttp import web

    from mataserver_fleet.gateway.bodies import SentBody, StreamingBody
    from mataserver_fleet.gateway.connections import ConnectionPool
    from mataserver_fleet.gateway.exchange import SentMessage, UpstreamResponse
    from mataserver_fleet.gateway.grants import ConsumerGrants
    from mataserver_fleet.gateway.matching import RouteMatch
    from mataserver_fleet.gateway.probes import Prober
    from mataserver_fleet.gateway.selection import ServerSelector
    from mataserver_fleet.gateway.sequences import Destination, SequenceStep
    from mataserver_fleet.gateway.servers import Servers
    from mataserver_fleet.gateway.snapshot import Consumer

PAUSE, LONGEST = 0.05, 0.5
"""Seconds before servers that all failed are asked again: doubled each time, up to the longest."""
_TELLING = frozenset({400, 404, 503})
"""Statuses by which a server may say that it has no such model now: 400 is a Triton's."""
_NOT_HERE = 503
_STRANGE = frozenset({401, 403})
"""Statuses by which a mataserver says that it does not know the gateway's key."""
MIRRORED = 16
"""Copies that are under way at a time; there is none of a request beyond."""
_VISIBLE = "".join(map(chr, range(0x21, 0x7F)))

log = logging.getLogger("mataserver.plugin.fleet")


class FirstAttempt(NamedTuple):
    """The first try of a call, which was made already: whom it asks, and how far it is.

    deadline: of the call, however often it is tried; the loop's time.
    """

    pin: Destination
    begun: SentMessage
    deadline: float


class Call:
    """A request that may be answered, and what became of it.

    status: what is counted, also where the client was not told.
    """

    __slots__ = (
        "asked", "body", "bytes_out", "consumer", "fields", "pin", "request", "status", "step",
    )  # fmt: skip

    def __init__(
        self,
        request: web.Request,
        asked: RouteMatch,
        consumer: Consumer,
        fields: bytes,
    ) -> None:
        self.request = request
        self.asked = asked
        self.consumer = consumer
        self.fields = fields
        self.body: BufferedBody | StreamingBody | SentBody | None = None
        self.status = 499
        self.bytes_out = 0
        self.step: SequenceStep | None = None
        self.pin: Destination | None = None

    @property
    def replayable(self) -> bool:
        """Whether the request can be sent a second time."""
        return self.body is None or not self.body.begun

    def count(self, size: int) -> None:
        """Note bytes that were passed on."""
        self.bytes_out += size


class Forwarder:
    """Sends calls to servers. ``unread`` is how many seconds a client may not read."""

    def __init__(
        self,
        servers: Servers,
        choosing: ServerSelector,
        links: ConnectionPool,
        probes: Prober,
        grants: ConsumerGrants,
        unread: float = 30.0,
    ) -> None:
        self._grants = grants
        self._servers = servers
        self._choosing = choosing
        self._links = links
        self._probes = probes
        self._unread = unread
        self._mirrored: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """End the copies that are under way."""
        for task in self._mirrored:
            task.cancel()
        await asyncio.gather(*self._mirrored, return_exceptions=True)

    async def answer(self, call: Call, first: FirstAttempt | None = None) -> web.StreamResponse:
        """Return the answer; ``first`` is what was tried of a call that nobody is bound to.

        Raises ``UpstreamFailure`` and ``Unavailable``.
        """
        if first is None and call.asked.verb == "infer" and call.body is not None:
            call.pin = self._choosing.bound(*call.asked[:2], call.step, call.consumer.id)
            self._mirror(call)
        place, version, _ = call.asked
        application = place.application
        now = asyncio.get_running_loop().time()
        deadline = now + application.timeout if first is None else first.deadline
        pin, begun = (None, None) if first is None else (first.pin, first.begun)
        tried: set[str] = set()
        pause = PAUSE
        failure: UpstreamFailure | None = None
        try:
            for _ in range(application.retries + 1):
                if begun is None:
                    pin = self._choosing.choose(place, version, call.pin, tried)
                if pin is None and tried:  # everyone that may live was asked: perhaps now
                    await asyncio.sleep(pause)
                    tried.clear()
                    pause = min(2 * pause, LONGEST)
                    pin = self._choosing.choose(place, version, call.pin, tried)
                if pin is None:
                    break
                try:
                    return await self._ask(call, pin, deadline, tried, begun)
                except UpstreamFailure as error:
                    failure, begun = error, None
                    if error.status != _NOT_HERE:
                        self._servers.of(pin.target).doubt()
                    if not self._may_repeat(call, error):
                        raise
                    tried.add(pin.target.url)
            raise failure or Unavailable("No server has the model ready now", retry_after=1)
        finally:
            failure = None  # it knows this frame, and with it the body: a cycle

    def _may_repeat(self, call: Call, failure: UpstreamFailure) -> bool:
        """Whether a request that failed is sent anew: to no second server of a sequence."""
        if call.pin is not None or not call.replayable:
            return False
        if failure.begun or failure.status == 504:
            return False
        return not failure.sent or call.asked.place.application.resend

    async def _ask(
        self,
        call: Call,
        pin: Destination,
        deadline: float,
        tried: set[str],
        begun: SentMessage | None,
    ) -> web.StreamResponse:
        route, verb = call.asked.place.route, call.asked.verb
        server = self._servers.of(pin.target)
        if begun is None:
            seconds = max(0.001, deadline - asyncio.get_running_loop().time())
        else:
            seconds = call.asked.place.application.timeout
        movable = call.replayable and call.pin is None and call.asked.place.application.resend
        path = with_query(route.path(pin.version, verb), call.request)
        method = asked_as(call.request.method)
        message = UpstreamRequest(method, path, call.fields, call.body, call.consumer.id)
        async with Exchange(
            self._links, pin.target, server, message, seconds, movable=movable, begun=begun
        ) as answer:
            if pin.target.token and answer.status in _STRANGE:
                raise UpstreamFailure("The server does not accept the gateway", sent=False)
            if answer.status in _TELLING:
                await self._check(call, pin, tried)
            if call.step is not None:
                self._choosing.bind(call.asked.place, call.step, pin, call.consumer.id)
            if answer.length is not None:
                return await self._relayed(call, answer)
            # An answer without a length may go on for ever, as events do.
            cut = functools.partial(_cut_off, call.request)
            with self._grants.held(call.consumer, call.asked.place, "http", cut):
                return await self._relayed(call, answer)

    async def _relayed(self, call: Call, answer: UpstreamResponse) -> web.StreamResponse:
        patience = call.asked.place.application.timeout
        response, call.status = await relay(
            call.request, answer, patience, self._unread, call.count
        )
        return response

    async def _check(self, call: Call, pin: Destination, tried: set[str]) -> None:
        """Raise ``UpstreamFailure`` for an answer that says that the model is not here.

        A Triton that has just restarted says 400 for each model that it does not have yet. What the
        last one says of a version that the client named is the client's: there may be none.
        """
        place, version, verb = call.asked
        if verb not in {"infer", IMAGE_VERB} or call.pin is not None:
            return
        if pin.target.kind == "own":
            return
        path, server = place.route.path(pin.version, "ready"), self._servers.of(pin.target)
        if await self._probes.look(pin.target, server, path):
            return
        asked = tried | {pin.target.url}
        if version and self._choosing.choose(place, version, None, asked) is None:
            return
        raise UpstreamFailure("The server has not the model ready", sent=False, status=_NOT_HERE)

    # copies

    def _mirror(self, call: Call) -> None:
        """Send a copy to the version that is tried out; nobody waits for its answer."""
        route, body = call.asked.place.route, call.body
        if not route.mirror or call.step is not None or not isinstance(body, BufferedBody):
            return
        if len(self._mirrored) < MIRRORED:
            task = asyncio.ensure_future(self._copy(call, body))
            self._mirrored.add(task)
            task.add_done_callback(self._mirrored.discard)

    async def _copy(self, call: Call, body: BufferedBody) -> None:
        application, route = call.asked.place
        path = route.path(route.mirror, "ready")
        target = self._servers.pick(route.targets, path)
        if target is None:
            return
        path = route.path(route.mirror, "infer")
        message = UpstreamRequest("POST", path, call.fields, body, call.consumer.id)
        server, seconds = self._servers.of(target), application.timeout
        try:
            async with (
                Exchange(self._links, target, server, message, seconds, movable=False) as answer,
                asyncio.timeout(seconds),
            ):
                while await answer.chunk():
                    pass
        except (MataError, OSError, MalformedError) as error:
            log.info("a copy for version %s failed: %s", route.mirror, type(error).__name__)


def _cut_off(request: web.Request, _why: MataError) -> None:
    """End an answer: what has come of it must not be taken for the whole."""
    if request.transport is not None:
        request.transport.abort()


def with_query(path: str, request: web.Request) -> str:
    """Return a path with a client's query; what may not stand in one is encoded."""
    query = request.rel_url.raw_query_string
    return f"{path}?{quote(query, safe=_VISIBLE)}" if query else path
