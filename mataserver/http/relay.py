"""Forwards requests to the front-end that holds the resource, on the caller's behalf."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
from typing import TYPE_CHECKING, Any, TypeVar

import aiohttp
import msgspec
from aiohttp import hdrs, web

from mataserver.errors import NotFound, Unavailable
from mataserver.frontends.identity_assertions import ASSERTION_HEADER
from mataserver.frontends.resource_ids import EVERY_FRONTEND
from mataserver.http import auth, bodies, proxies, relay_headers, relay_sockets, request_credentials
from mataserver.http.frontend_client import (
    GONE_REASON,
    UNREACHABLE_REASON,
    FrontendClient,
    report_unreachable,
    url_of,
)

if TYPE_CHECKING:
    from mataserver.contract.routes import Route
    from mataserver.frontends.directory import FrontendDirectory, PeerFrontend
    from mataserver.http.budget import Budget
    from mataserver.http.routing import RouteTable
    from mataserver.http.sockets import ServiceSockets
    from mataserver.metrics import Metrics
    from mataserver.principals import Principal

T = TypeVar("T")

ANSWER_TIMEOUT = 5.0
"""Timeout of another front-end's answer about what it holds."""
MAX_BUFFERED = 1_000_000
"""Answers up to this size, in bytes, are read whole before forwarding."""
NO_SESSION, TRY_AGAIN = 4004, 1013

log = logging.getLogger("mataserver.frontends")


class FrontendRelay:
    """Forwards requests to the front-end that holds the named resource, by an open ``client``."""

    def __init__(
        self,
        directory: FrontendDirectory,
        table: RouteTable,
        budget: Budget,
        sockets: ServiceSockets,
        metrics: Metrics,
        unread_timeout: float,
        *,
        trust_proxy: bool,
    ) -> None:
        self.directory = directory
        self.client = FrontendClient(directory, trust_proxy=trust_proxy)
        self._table = table
        self._budget = budget
        self._sockets = sockets
        self._metrics = metrics
        self._unread_timeout = unread_timeout

    def asserted_principal(self, request: web.Request) -> Principal | None:
        """Return the caller that another front-end asserts; None without an assertion.

        Raises ``InvalidAssertion``.
        """
        assertions = self.client.assertions
        if assertions is None or ASSERTION_HEADER not in request.headers:
            return None
        path = request.rel_url.raw_path_qs
        said, own = request.headers[ASSERTION_HEADER], self.directory.held.tag
        principal = assertions.verify(said, request.method, path, own)
        request[proxies.RELAYED] = True
        return principal

    async def forward(self, request: web.Request, route: Route) -> web.StreamResponse | None:
        """Answer by the front-end that holds the resource; None if this one does.

        Relayed requests are never forwarded again, and anonymous ones never at all. Raises
        ``NotFound`` if the front-end is gone, ``Unavailable`` if it cannot be reached.
        """
        if route.held == EVERY_FRONTEND or ASSERTION_HEADER in request.headers:
            return None
        kind, _, variable = route.held.rpartition(":")
        identity = request.match_info[variable]
        principal = request[auth.PRINCIPAL]
        if principal is None or not principal.may(route.needs or "infer"):
            return None
        if self.directory.held.holds(kind, identity, principal.id):
            return None
        holder = await self.directory.find_holder(kind, identity, principal.id)
        if holder is None:
            return None
        if (
            request.method == hdrs.METH_GET
            and not route.response
            and request_credentials.is_socket(request)
        ):
            return await self._relay_socket(request, holder, principal)
        self._metrics.relayed.add("http")
        return await self._forward_request(request, holder, principal)

    async def gather(self, request: web.Request, kind: Any) -> list[Any]:
        """Return each other front-end's answer to the same request, decoded as ``kind``.

        Raises ``Unavailable`` if a live one does not answer: a list would be incomplete.
        """
        if ASSERTION_HEADER in request.headers:
            return []
        others = [each for each in self.directory.peers() if not self.directory.is_silent(each)]
        found = await asyncio.gather(*(self._get_json(request, each, kind) for each in others))
        return [each for each in found if each is not None]

    async def _get_json(self, request: web.Request, other: PeerFrontend, kind: Any) -> Any:
        """Return one's answer; None for one that is gone, or lacks the route."""
        path, principal = request.rel_url.raw_path_qs, auth.caller(request)
        headers = self.client.headers(request, principal, path, other)
        pending = self.client.session.get(
            url_of(other, path), headers=headers, allow_redirects=False
        )
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT), pending as answer:
                body = await relay_headers.read_body(answer)
                if answer.status == NotFound.status:  # it lacks the plugin, and so holds nothing
                    return None
                if answer.status != 200:
                    report_unreachable(
                        other, f"{answer.status}: {body[: relay_headers.LOGGED_BYTES]!r}"
                    )
                    raise Unavailable("A front-end does not say what it holds", retry_after=1)
                return msgspec.json.decode(body, type=kind)
        except (TimeoutError, aiohttp.ClientError, msgspec.DecodeError, UnicodeError) as error:
            if self.client.is_gone(other, error):
                return None
            raise report_unreachable(other, error) from None

    async def _forward_request(
        self, request: web.Request, holder: PeerFrontend, principal: Principal
    ) -> web.StreamResponse:
        path = request.rel_url.raw_path_qs
        headers = self.client.headers(request, principal, path, holder)
        async with contextlib.AsyncExitStack() as stack:
            body = bodies.BodyReader(request, self._budget, self._table.limits(request))
            data = await stack.enter_async_context(body) if request.can_read_body else None
            pending = self.client.session.request(
                request.method,
                url_of(holder, path),
                headers=headers,
                data=None if data is None else io.BytesIO(data),  # aiohttp would send bytes at once
                allow_redirects=False,
            )
            try:
                answer = await self.client.while_alive(holder, stack.enter_async_context(pending))
                if _is_buffered(request, answer):
                    whole = await self.client.while_alive(holder, answer.read())
                    kept = relay_headers.forwarded_answer(answer)
                    if request.method == hdrs.METH_HEAD and answer.content_length is not None:
                        kept[hdrs.CONTENT_LENGTH] = str(answer.content_length)
                    return web.Response(body=whole, status=answer.status, headers=kept)
                if answer.status == auth.Unauthorized.status:  # this front-end, not the caller
                    said = await self.client.while_alive(holder, relay_headers.read_body(answer))
                    raise report_unreachable(
                        holder, f"{answer.status}: {said[: relay_headers.LOGGED_BYTES]!r}"
                    )
            except aiohttp.ClientError as error:
                raise self.client.connect_error(holder, error) from None
            return await self._stream_answer(request, holder, answer)

    async def _stream_answer(
        self, request: web.Request, holder: PeerFrontend, answer: aiohttp.ClientResponse
    ) -> web.StreamResponse:
        """Stream an answer. If it breaks off, the connection ends: the answer has begun."""
        response = web.StreamResponse(
            status=answer.status, headers=relay_headers.forwarded_answer(answer)
        )
        response.content_length = answer.content_length
        await response.prepare(request)
        try:
            while chunk := await self.client.while_alive(holder, answer.content.readany()):
                async with asyncio.timeout(self._unread_timeout):
                    await response.write(chunk)
        except (aiohttp.ClientError, NotFound, TimeoutError) as error:
            if request.transport is not None:  # an error answer would look like more data
                request.transport.abort()
            raise ConnectionResetError("an answer of another front-end broke off") from error
        return response

    async def _relay_socket(
        self, request: web.Request, holder: PeerFrontend, principal: Principal
    ) -> web.StreamResponse:
        """Relay a WebSocket; one that cannot be relayed is accepted, then closed with the reason.

        If the other front-end answers without a WebSocket, that answer is forwarded.
        """
        self._metrics.relayed.add("socket")
        path = relay_headers.without_token(request)
        offered = request.headers.get(hdrs.SEC_WEBSOCKET_PROTOCOL, "")
        headers = self.client.headers(request, principal, path, holder)
        connecting = self.client.session.ws_connect(
            url_of(holder, path),
            headers=headers,
            protocols=[each.strip() for each in offered.split(",") if each.strip()],
            autoping=False,
            autoclose=False,
            timeout=aiohttp.ClientWSTimeout(ws_close=relay_sockets.CLOSE_TIMEOUT),
            max_msg_size=0,
        )
        try:
            far = await self.client.while_alive(holder, connecting)
        except (aiohttp.ClientError, NotFound) as error:
            if isinstance(error, relay_headers.UpgradeRefusedError):
                if error.status >= 400 and error.status != auth.Unauthorized.status:
                    return web.Response(body=error.body, status=error.status, headers=error.headers)
                report_unreachable(holder, error)  # it rejects this front-end, or is none
            gone = isinstance(error, NotFound) or self.client.is_gone(holder, error)
            code = NO_SESSION if gone else TRY_AGAIN
            async with self._sockets.accept_raw(request) as near:
                await relay_sockets.close_side(
                    near, code, GONE_REASON if gone else UNREACHABLE_REASON
                )
            return near
        chosen = [far.protocol] if far.protocol else []
        async with far, self._sockets.accept_raw(request, chosen) as near:
            with contextlib.suppress(NotFound):  # already closed as going away
                await self.client.while_alive(holder, relay_sockets.SocketRelay().run(near, far))
            return near


def _is_buffered(request: web.Request, answer: aiohttp.ClientResponse) -> bool:
    """Whether an answer is short enough to read whole; errors are converted to an error form."""
    if answer.status in {204, 304, auth.Unauthorized.status} or request.method == hdrs.METH_HEAD:
        return answer.status != auth.Unauthorized.status
    return answer.content_length is not None and answer.content_length <= MAX_BUFFERED
