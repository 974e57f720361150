"""Processing around every handler: request id, authentication, error answers, metrics."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from typing import TYPE_CHECKING

from aiohttp import hdrs, web
from aiohttp.hdrs import METH_ALL

from mataserver import errors
from mataserver.errors import BadRequest, MataError, NotFound, Unavailable, shortage_error
from mataserver.http import auth, error_responses
from mataserver.http.admission import REJECTED, admit, is_valid
from mataserver.http.common_headers import BEGUN, PRIVATE, REQUEST_ID, forbid_storing, identify
from mataserver.http.error_responses import as_api_error, error_response
from mataserver.http.handler_results import body_size, require_response
from mataserver.http.protocol import HttpConnection, bad_request
from mataserver.http.proxies import check_host
from mataserver.http.request_credentials import is_socket
from mataserver.http.request_warnings import HEADER, WARNING, warn_of_body, warn_of_ignored
from mataserver.http.revocation import REVOKED_REASON, check_not_revoked, is_watched, watch_caller
from mataserver.http.routing import ROUTE
from mataserver.http.sockets import UNAUTHORIZED
from mataserver.logs import RateLimitedLog
from mataserver.plugin_ends import LostWaitError, end_error

if TYPE_CHECKING:
    from mataserver.contract.routes import Handler
    from mataserver.http.auth import Authenticator
    from mataserver.http.budget import Budget
    from mataserver.http.lifecycle import Lifecycle
    from mataserver.http.relay import FrontendRelay
    from mataserver.http.routing import RouteTable
    from mataserver.metrics import Metrics

METRICS_STATUS: web.RequestKey[int] = web.RequestKey("counted", int)
"""The status for metrics, if the response's own is not meaningful."""
MAX_CONTENT_TYPE = 512
"""Longest ``Content-Type``: aiohttp's parser, if a plugin calls it, takes 0.1 ms per character."""
CLIENT_GONE = 499
"""Status counted for a client that disconnected before its answer; never sent."""
_LINGER = 2.0
"""Seconds that a connection stays open for its client to read the reason of its end."""

log = logging.getLogger("mataserver.http")


class RequestMiddleware:
    """The middleware around every handler; ``relay`` relays to other front-ends, if any."""

    def __init__(
        self,
        table: RouteTable,
        gate: Authenticator,
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
        self._relay = relay
        self._repeated = RateLimitedLog(log)

    @web.middleware
    async def handle(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer a request; convert errors to answers."""
        if not is_valid(request):
            return bad_request()
        identify(request)
        started_at = time.perf_counter()
        request[BEGUN] = started_at
        self.lifecycle.active += 1
        try:
            response = await self._answer(request, handler)
        except asyncio.CancelledError:
            self._count(request, _cancelled_status(request), started_at)
            raise
        finally:
            self.lifecycle.active -= 1
        return self.finish(request, response, started_at)

    def finish_unhandled(self, request: web.Request, response: web.Response) -> web.StreamResponse:
        """Count an answer that takes no handler, and add the common headers.

        A request that no handler would get is refused instead.
        """
        if not is_valid(request):
            return bad_request()
        identify(request)
        try:
            check_host(request)
        except BadRequest as error:
            response = self.refuse(request, error)
        return self.finish(request, response, time.perf_counter())

    def finish(
        self, request: web.Request, response: web.StreamResponse, started_at: float
    ) -> web.StreamResponse:
        """Count an answer and add the common headers."""
        warning = request.get(WARNING) if response.status < 400 else None
        if warning is not None:
            line = f"{request.method} {request.rel_url.raw_path}: {warning}"
            self._repeated.warn(HEADER, line)
        if response.status >= 400:
            response = error_responses.render(request, response, self.table.forms)
            if (route := request.get(ROUTE)) is not None and not response.prepared:
                response.headers.update(route.error_headers)
        if response.prepared:
            self._count(request, request.get(METRICS_STATUS, response.status), started_at)
            return response
        forbid_storing(request, response)
        duration = self._count(request, response.status, started_at)
        if self.lifecycle.is_draining:
            response.force_close()
        headers = response.headers
        if warning is not None:
            headers[HEADER] = warning
        headers["X-Request-Id"] = request[REQUEST_ID]
        stages = headers.get("Server-Timing")
        total = f"total;dur={duration * 1e3:.3f}"
        headers["Server-Timing"] = f"{stages}, {total}" if stages else total
        return response

    def _count(self, request: web.Request, status: int, started_at: float) -> float:
        """Count a request; return its duration in seconds."""
        duration = time.perf_counter() - started_at
        method = request.method if request.method in METH_ALL else "other"  # limits label values
        self.metrics.count(method, self.table.label(request), str(status), duration)
        return duration

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer a request by its handler, or as its error says."""
        try:
            return await self._dispatch(request, handler)
        except Exception as error:
            if isinstance(error, NotFound):
                allowed = await self.table.other_methods(request)
                if allowed:
                    return as_api_error(web.HTTPMethodNotAllowed(request.method, sorted(allowed)))
            absent = isinstance(error, web.HTTPNotFound)
            if absent and (hint := await self.table.version_hint(request)):
                error = MataError(f"Not found: {hint}", status=404)
            return self.refuse(request, error)
        except BaseException as error:  # SystemExit would end the server
            return self.refuse(request, end_error(error))

    def refuse(self, request: web.Request, error: Exception) -> web.Response:
        """Return the answer to an error."""
        if isinstance(error, (MataError, web.HTTPException)):
            if isinstance(error, MataError):
                self._log_failure(request, error)
                response = error_response(error)
            else:
                response = self._http_error(error)
            if response.status == 408 or REJECTED in request:
                _close_soon(request, response)
            return response
        resource_error = self._resource_error(request, error)
        if resource_error is not None:
            return resource_error
        path, request_id = request.rel_url.raw_path, request[REQUEST_ID]
        log.error("%s %s failed (%s)", request.method, path, request_id, exc_info=error)
        return error_response(MataError("Internal server error"))

    async def _dispatch(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Dispatch to the responsible handler. Raises what it raises."""
        table = self.table
        check_host(request)
        if len(request.headers.get(hdrs.CONTENT_TYPE, "")) > MAX_CONTENT_TYPE:
            raise BadRequest(f"Content-Type has over {MAX_CONTENT_TYPE} characters")
        claimed = table.claiming_handler(request) if table.claims else None
        route = table.resolve(request) if claimed is None else None
        if claimed is not None or (route is not None and not route.public):
            request[PRIVATE] = True
        if claimed is not None:
            _set_anonymous(request, anonymous=False)  # the service authenticates the caller itself
        elif route is not None:
            await admit(request, route, self.gate, self._relay)
            _set_anonymous(request, anonymous=request[auth.PRINCIPAL] is None)
            handler = handler if route.when is None else route.handler
            if route.held and self._relay is not None:
                answered = await self._relay.forward(request, route)
                if answered is not None:
                    return answered
            warn_of_ignored(request, route)
        answer = claimed or handler
        if hdrs.UPGRADE in request.headers:
            answer = functools.partial(_until_revoked, answer)
        response = require_response(await answer(request), request)
        if route is not None and not response.prepared:  # its head may say no more
            warn_of_body(request, route)
        self.budget.require_room(body_size(response))
        return response

    def _http_error(self, error: web.HTTPException) -> web.Response:
        """Answer one of aiohttp's own errors, explaining a path that needs a restart."""
        waits_for = self.table.restart_reason() if error.status in {404, 405} else ""
        if waits_for:
            return error_response(MataError(f"Not found: {waits_for}", status=404))
        return as_api_error(error)

    def _resource_error(self, request: web.Request, error: Exception) -> web.Response | None:
        """Answer errors that are not bugs: a disconnected client, or exhausted resources."""
        if isinstance(error, (ConnectionError, LostWaitError)) and _is_disconnected(request):
            return error_response(MataError("The client has left", status=CLIENT_GONE))
        shortage = shortage_error(error)
        if shortage is None:
            return None
        self._log_failure(request, shortage, error)
        return error_response(shortage)

    def _log_failure(
        self, request: web.Request, error: MataError, cause: Exception | None = None
    ) -> None:
        """Log a failure of the server, with the traceback of its ``cause``.

        Those of overload (503, 507) are logged at most once per second, and those of 503 without
        one: where descriptors or threads ran out says nothing of why.
        """
        if error.status >= 500:
            line = f"{request.method} {request.rel_url.raw_path}: {error.told}"
            cause = None if error.status == Unavailable.status else cause
            if error.status in {Unavailable.status, errors.OutOfMemory.status}:
                self._repeated.warn(error.detail, line, cause)
            else:
                log.warning("%s", line, exc_info=cause)


def _cancelled_status(request: web.Request) -> int:
    """Return the status counted for a cancelled handler.

    Most WebSockets end by cancellation, and a stream may have been completed before.
    """
    if is_socket(request):
        return 101
    return int(request.get(METRICS_STATUS, CLIENT_GONE if _is_disconnected(request) else 503))


def _is_disconnected(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


async def _until_revoked(answer: Handler, request: web.Request) -> web.StreamResponse | None:
    """End a WebSocket once its credentials become invalid, unless the service handles that.

    Raises ``CredentialsRevoked`` if they did while another front-end was asked for its session.
    """

    def end() -> None:
        protocol = request.protocol
        if isinstance(protocol, HttpConnection) and not is_watched(request):
            protocol.close_websocket(UNAUTHORIZED, REVOKED_REASON)

    check_not_revoked(request)
    with watch_caller(request, end):
        return await answer(request)


def _set_anonymous(request: web.Request, *, anonymous: bool) -> None:
    """Record whether the connection's current request is unauthenticated."""
    if isinstance(request.protocol, HttpConnection):
        request.protocol.is_anonymous = anonymous


def _close_soon(request: web.Request, response: web.Response) -> None:
    """Close the connection soon after the answer: aiohttp would wait 10 s for the body."""
    response.force_close()
    if request.transport is not None:
        asyncio.get_running_loop().call_later(_LINGER, request.transport.close)
