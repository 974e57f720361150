"""Processing around every handler: request id, authentication, error answers, metrics."""

from __future__ import annotations

import asyncio
import functools
import logging
import re
import time
from random import getrandbits
from typing import TYPE_CHECKING

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.hdrs import METH_ALL
from aiohttp.payload import Payload

from mataserver.errors import BadRequest, MataError, NotFound, Unavailable, shortage_error
from mataserver.http import auth, error_answers
from mataserver.http.admission import REFUSED, admit
from mataserver.http.error_answers import error_response, unserved
from mataserver.http.grants import GRANTS, NO_MORE, is_held
from mataserver.http.protocol import VERSIONS, Conversation, refusal
from mataserver.http.routing import REQUEST_ID, ROUTE
from mataserver.http.shown import is_socket
from mataserver.http.sockets import ACCEPTED, UNAUTHORIZED
from mataserver.http.unread_output import BEGINS
from mataserver.logs import RateLimitedLog

if TYPE_CHECKING:
    from mataserver.contract.routes import Handler
    from mataserver.http.auth import Gate
    from mataserver.http.budget import Budget
    from mataserver.http.lifecycle import Lifecycle
    from mataserver.http.relay import FrontendRelay
    from mataserver.http.routing import Table
    from mataserver.metrics import Metrics

COUNTED: web.RequestKey[int] = web.RequestKey("counted", int)
"""The status for metrics, if the response's own is not meaningful."""
LONGEST_TYPE = 512
"""Longest ``Content-Type``: aiohttp's parser, if a plugin calls it, takes 0.1 ms per character."""
LEFT = 499
"""Status counted for a client that disconnected before its answer; never sent."""
_LINGER = 2.0
"""Seconds that a connection stays open for its client to read the reason of its end."""
_SANE_ID = re.compile(r"[\w.:@/+=-]{1,128}", re.ASCII)

log = logging.getLogger("mataserver.http")


class Edge:
    """The middleware around every handler; ``relay`` relays to other front-ends, if any."""

    def __init__(
        self,
        table: Table,
        gate: Gate,
        budget: Budget,
        lifecycle: Lifecycle,
        metrics: Metrics,
        relay: FrontendRelay | None = None,
    ) -> None:
        self.table = table
        self.gate = gate
        self.budget = budget
        self.lifecycle = lifecycle
        self.metrics = metrics
        self._answer = _Answer(table, gate, budget, relay)

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer a request; convert errors to answers."""
        version = request.version
        # RFC 9112, section 6.1: an HTTP/1.0 proxy does not know chunks, so framing may be
        # ambiguous.
        if version != HttpVersion11 and (
            version not in VERSIONS or hdrs.TRANSFER_ENCODING in request.headers
        ):
            return refusal()
        # Request targets have no fragment: a proxy in front might have judged a different path.
        if "#" in request.raw_path:
            return refusal()
        request_id = request.headers.get("X-Request-Id")
        if request_id is None or not _SANE_ID.fullmatch(request_id):
            request_id = new_id()
        request[REQUEST_ID] = request_id
        begun = time.perf_counter()
        self.lifecycle.active += 1
        try:
            response = await self._answer(request, handler)
        except asyncio.CancelledError:
            self._count(request, _unanswered(request), begun)
            raise
        finally:
            self.lifecycle.active -= 1
        return self.finish(request, response, begun)

    def refuse(self, request: web.Request, error: Exception) -> web.Response:
        """Return the answer to a handler's error."""
        return self._answer.refuse(request, error)

    def finish(
        self, request: web.Request, response: web.StreamResponse, begun: float
    ) -> web.StreamResponse:
        """Count an answer and add the common headers."""
        if response.status >= 400:
            response = error_answers.render(request, response, self.table.forms)
            if (route := request.get(ROUTE)) is not None and not response.prepared:
                response.headers.update(route.error_headers)
        if response.prepared:
            self._count(request, request.get(COUNTED, response.status), begun)
            return response
        spent = self._count(request, response.status, begun)
        if self.lifecycle.draining:
            response.force_close()
        headers = response.headers
        headers["X-Request-Id"] = request[REQUEST_ID]
        stages = headers.get("Server-Timing")
        total = f"total;dur={spent * 1e3:.3f}"
        headers["Server-Timing"] = f"{stages}, {total}" if stages else total
        return response

    def _count(self, request: web.Request, status: int, begun: float) -> float:
        """Count a request; return its duration in seconds."""
        spent = time.perf_counter() - begun
        method = request.method if request.method in METH_ALL else "other"  # limits label values
        self.metrics.count(method, self.table.label(request), str(status), spent)
        return spent


def new_id() -> str:
    """Return a new request id."""
    return f"{getrandbits(64):016x}"


def _unanswered(request: web.Request) -> int:
    """Return the status counted for a cancelled handler.

    Most WebSockets end by cancellation, and a stream may have been completed before.
    """
    if is_socket(request):
        return 101
    return int(request.get(COUNTED, LEFT if _is_disconnected(request) else 503))


def _is_disconnected(request: web.Request) -> bool:
    """Whether the client has disconnected."""
    return request.transport is None or request.transport.is_closing()


class _Answer:
    """Dispatches a request; converts errors to answers."""

    def __init__(
        self, table: Table, gate: Gate, budget: Budget, relay: FrontendRelay | None
    ) -> None:
        self._table = table
        self._gate = gate
        self._budget = budget
        self._relay = relay
        self._refusals = RateLimitedLog(log)

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await self._served(request, handler)
        except Exception as error:
            if isinstance(error, NotFound):
                allowed = await self._table.methods_beside(request)
                if allowed:
                    return unserved(web.HTTPMethodNotAllowed(request.method, sorted(allowed)))
            return self.refuse(request, error)

    def refuse(self, request: web.Request, error: Exception) -> web.Response:
        """Return the answer to an error."""
        if isinstance(error, MataError):
            self._log_failure(request, error)
            response = error_response(error)
            if error.status == 408 or REFUSED in request:
                _hang_up(request, response)
            return response
        if isinstance(error, web.HTTPException):
            return self._unserved(error)
        circumstance = self._circumstance(request, error)
        if circumstance is not None:
            return circumstance
        path, request_id = request.rel_url.raw_path, request[REQUEST_ID]
        log.error("%s %s failed (%s)", request.method, path, request_id, exc_info=error)
        return error_response(MataError("Internal server error"))

    async def _served(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Dispatch to the responsible handler. Raises what it raises."""
        table = self._table
        if len(request.headers.get(hdrs.CONTENT_TYPE, "")) > LONGEST_TYPE:
            raise BadRequest(f"Content-Type has over {LONGEST_TYPE} characters")
        claimed = table.claimed(request) if table.claims else None
        if claimed is not None:
            _set_stranger(request, stranger=False)  # the service authenticates the caller itself
        else:
            route = table.choose(request)
            if route is not None:
                await admit(request, route, self._gate, self._relay)
                _set_stranger(request, stranger=request[auth.PRINCIPAL] is None)
                handler = handler if route.when is None else route.handler
                if route.held and self._relay is not None:
                    answered = await self._relay.forward(request, route)
                    if answered is not None:
                        return answered
        answer = claimed or handler
        if hdrs.UPGRADE in request.headers:
            answer = functools.partial(_in_name, answer)
        response = _checked(await answer(request), request)
        require_room(self._budget, size_of(response))
        return response

    def _unserved(self, error: web.HTTPException) -> web.Response:
        """Answer one of aiohttp's own errors, explaining a path that needs a restart."""
        waits_for = self._table.awaited() if error.status in {404, 405} else ""
        if waits_for:
            return error_response(MataError(f"Not found: {waits_for}", status=404))
        return unserved(error)

    def _circumstance(self, request: web.Request, error: Exception) -> web.Response | None:
        """Answer errors that are not bugs: a disconnected client, or exhausted resources."""
        if isinstance(error, ConnectionError) and _is_disconnected(request):
            return error_response(MataError("The client has left", status=LEFT))
        shortage = shortage_error(error)
        if shortage is None:
            return None
        self._log_failure(request, shortage, error)
        return error_response(shortage)

    def _log_failure(
        self, request: web.Request, error: MataError, cause: Exception | None = None
    ) -> None:
        """Log a failure of the server, with the traceback of its ``cause``.

        Overload errors are logged at most once per second, without one: where descriptors or
        threads ran out says nothing of why.
        """
        if error.status >= 500:
            line = f"{request.method} {request.rel_url.raw_path}: {error.told}"
            if error.status == Unavailable.status:
                self._refusals.warn(error.detail, line)
            else:
                log.warning("%s", line, exc_info=cause)


def _checked(response: object, request: web.Request) -> web.StreamResponse:
    """Validate a handler's result; return it, or the WebSocket that the handler accepted.

    Raises ``TypeError`` if aiohttp could not send it.
    """
    if isinstance(response, web.StreamResponse):
        return response
    if response is None and ACCEPTED in request:
        return request[ACCEPTED]
    name = type(response).__name__
    raise TypeError(f"its handler returned {name}, not a response, as ctx.http.respond makes one")


async def _in_name(answer: Handler, request: web.Request) -> web.StreamResponse | None:
    """End a WebSocket once its credentials become invalid, unless the service handles that."""

    def end() -> None:
        protocol = request.protocol
        if isinstance(protocol, Conversation) and not is_held(request):
            protocol.end_socket(UNAUTHORIZED, NO_MORE)

    grants = request.get(GRANTS)
    if grants is None:
        return await answer(request)
    with grants.held(request.get(auth.PRINCIPAL), end):
        return await answer(request)


def require_room(budget: Budget, size: int) -> None:
    """Raise ``Unavailable`` if there is no room for an answer, in case it is not read."""
    if size > BEGINS:
        budget.require(size)


def size_of(response: web.StreamResponse) -> int:
    """Return the size of an answer that is in memory completely, else 0."""
    body = response.body if isinstance(response, web.Response) else None
    if isinstance(body, Payload):
        return body.size or 0
    return 0 if body is None else len(body)


def _set_stranger(request: web.Request, *, stranger: bool) -> None:
    """Record whether the connection's current request is unauthenticated."""
    if isinstance(request.protocol, Conversation):
        request.protocol.is_strangers = stranger


def _hang_up(request: web.Request, response: web.Response) -> None:
    """Close the connection soon after the answer: aiohttp would wait 10 s for the body."""
    response.force_close()
    if request.transport is not None:
        asyncio.get_running_loop().call_later(_LINGER, request.transport.close)
