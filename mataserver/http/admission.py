"""Admission of requests before their body is read, also for ``Expect: 100-continue``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, cast

from aiohttp import HttpVersion10, HttpVersion11, hdrs, web

from mataserver.errors import MataError, NotFound, TooLarge
from mataserver.http import auth, fast_routing
from mataserver.http.common_headers import BEGUN, identify
from mataserver.http.error_responses import error_response, render

if TYPE_CHECKING:
    from mataserver.contract.routes import Route
    from mataserver.http.auth import Authenticator
    from mataserver.http.relay import FrontendRelay
    from mataserver.http.routing import Expect, RouteTable

REJECTED: web.RequestKey[MataError] = web.RequestKey("refused", MataError)
"""The error of a request with ``Expect`` that was rejected before its body was requested."""

_VERSIONS = frozenset({HttpVersion10, HttpVersion11})
"""The supported HTTP versions. The parser also accepts HTTP/0.9, whose requests have no headers,
and a line that says HTTP/2.0."""


def is_valid(request: web.Request) -> bool:
    """Whether a request that was parsed is one that every HTTP reader understands alike.

    The version of one that is not is set to the one that its answer has.
    """
    if request._version not in _VERSIONS:  # noqa: SLF001 - the public one would be kept
        request._version = HttpVersion11  # noqa: SLF001 - aiohttp repeats it in the answer
        return False
    # RFC 9112, section 6.1: an HTTP/1.0 proxy does not know chunks, so framing may be ambiguous.
    # And the parser ignores what is before the chunks, as in "gzip, chunked".
    coding = request.headers.get(hdrs.TRANSFER_ENCODING)
    if coding is not None and (request.version == HttpVersion10 or coding.lower() != "chunked"):
        return False
    # Request targets have no fragment: a proxy in front might have judged a different path.
    return "#" not in request.raw_path


async def admit(
    request: web.Request, route: Route, gate: Authenticator, relay: FrontendRelay | None
) -> None:
    """Authenticate a request. Raises ``Unauthorized`` or ``Forbidden``.

    With ``Expect`` this runs before the middleware; the result is kept, so that services
    authenticate once per request.
    """
    if hdrs.EXPECT in request.headers:
        if REJECTED in request:
            raise request[REJECTED]
        if auth.PRINCIPAL in request:
            return
    known = relay.asserted_principal(request) if route.held and relay is not None else None
    try:
        await gate.admit(request, route, known)
    except auth.UnknownKey as error:
        if route.denied == auth.Unauthorized.status:
            raise auth.Unauthorized(error.detail) from None
        raise


def expect_handler(
    table: RouteTable, gate: Authenticator, relay: FrontendRelay | None = None
) -> Expect:
    """Return the handler of ``Expect``: it does not request a body that would be rejected."""

    async def expect(request: web.Request) -> web.StreamResponse | None:
        if request.headers.get("Expect", "").lower() != "100-continue":
            error = MataError("The expectation cannot be met", status=417)
            return _refuse(request, error, table)
        if table.claiming_handler(request) is not None:  # its service has own limits and keys
            _send_continue(request)
            return None
        route = table.resolve(request)
        if route is None:  # nobody would read a body
            request[REJECTED] = NotFound("Not found")
            return None
        limit = table.limits(request).size
        if (request.content_length or 0) > limit:
            too_large = TooLarge(f"The body is over the limit of {limit} bytes")
            return _refuse(request, too_large, table)
        try:
            await admit(request, route, gate, relay)
        except MataError as refusal:
            request[REJECTED] = refusal  # answered by the middleware, as without ``Expect``
            return None
        _send_continue(request)
        return None

    return expect


def handle_expectations(server: web.Server, application: web.Application, expect: Expect) -> None:
    """Have ``expect`` handle the expectations of requests without a route, too.

    aiohttp would request their bodies, and answer in a form of its own.
    """
    answer = server.request_handler

    async def answered(base: web.BaseRequest) -> web.StreamResponse:
        request = cast("web.Request", base)
        if request.headers.get(hdrs.EXPECT):
            found = await application.router.resolve(request)
            if found.http_exception is not None:
                resolved = fast_routing.wrap(found, application)
                resolved.match(request)
                return await expect(request) or await resolved.handler(request)
        return await answer(request)

    server.request_handler = answered


def _refuse(request: web.Request, error: MataError, table: RouteTable) -> web.StreamResponse:
    """Return an answer that does not pass the middleware, with what every answer has."""
    identify(request)
    request[BEGUN] = time.perf_counter()
    return render(request, error_response(error), table.forms)


def _send_continue(request: web.Request) -> None:
    """Request the body from a waiting client."""
    if request.transport is not None and request.version == HttpVersion11:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
