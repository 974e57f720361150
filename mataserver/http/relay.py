"""Requests for what another front-end holds: asked of it, in the name of who asks here."""

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
from mataserver.frontends.held import EVERY
from mataserver.frontends.vouching import HEADER
from mataserver.http import auth, bodies, proxies, relay_headers, relay_sockets, shown
from mataserver.http.relay_peers import AWAY, GONE, OtherFrontends, away, url_of

if TYPE_CHECKING:
    from mataserver.contract.routes import Route
    from mataserver.frontends.roll import Listed, Roll
    from mataserver.frontends.vouching import Voucher
    from mataserver.http.budget import Budget
    from mataserver.http.routing import Table
    from mataserver.http.sockets import Sockets
    from mataserver.metrics import Metrics
    from mataserver.principals import Principal

T = TypeVar("T")

ANSWER_SECONDS = 5.0
"""How long a front-end may take to tell what it holds."""
WHOLE = 1_000_000
"""Bytes of an answer that is read before it is sent on."""
NO_SESSION, TRY_AGAIN = 4004, 1013

log = logging.getLogger("mataserver.frontends")


class Elsewhere:
    """Asks the front-end that holds what a request names.

    The others are asked between ``open`` and ``close``.
    """

    def __init__(
        self,
        roll: Roll,
        table: Table,
        budget: Budget,
        sockets: Sockets,
        metrics: Metrics,
        unread_timeout: float,
        *,
        trust_proxy: bool,
    ) -> None:
        self.roll = roll
        self._others = OtherFrontends(roll, trust_proxy=trust_proxy)
        self._table = table
        self._budget = budget
        self._sockets = sockets
        self._metrics = metrics
        self._unread_timeout = unread_timeout

    def open(self, voucher: Voucher) -> None:
        """Take words, and give them."""
        self._others.open(voucher)

    async def close(self) -> None:
        """Close the connections."""
        await self._others.close()

    def vouched(self, request: web.Request, route: Route) -> Principal | None:
        """Return who asks by another front-end's word; None where there is none.

        Raises ``Distrusted``.
        """
        voucher = self._others.voucher
        if not route.held or voucher is None or HEADER not in request.headers:
            return None
        path = request.rel_url.raw_path_qs
        said, own = request.headers[HEADER], self.roll.held.tag
        principal = voucher.take(said, request.method, path, own)
        request[proxies.RELAYED] = True
        return principal

    async def answer(self, request: web.Request, route: Route) -> web.StreamResponse | None:
        """Answer by the front-end that holds what is asked for; None where that is this one.

        A request that another front-end vouches for is never sent on, nor is that of nobody.
        Raises ``NotFound`` where the front-end is gone, ``Unavailable`` where it is out of reach.
        """
        if route.held in {"", EVERY} or HEADER in request.headers:
            return None
        kind, _, variable = route.held.rpartition(":")
        identity = request.match_info[variable]
        principal = request[auth.PRINCIPAL]
        if principal is None or not principal.may(route.needs or "infer"):
            return None
        if self.roll.held.holds(kind, identity):
            return None
        holder = await self.roll.holder(kind, identity)
        if holder is None:
            return None
        if request.method == hdrs.METH_GET and not route.response and shown.is_socket(request):
            return await self._socket(request, holder, principal)
        self._metrics.relayed.add("http")
        return await self._asked(request, holder, principal)

    async def gather(self, request: web.Request, kind: Any) -> list[Any]:
        """Return what each other front-end answers to the same request, read as ``kind``.

        Raises ``Unavailable`` where one lives and does not tell: a list would lack something.
        """
        if HEADER in request.headers:
            return []
        others = [each for each in self.roll.others() if not self.roll.silent(each)]
        found = await asyncio.gather(*(self._told(request, each, kind) for each in others))
        return [each for each in found if each is not None]

    async def _told(self, request: web.Request, other: Listed, kind: Any) -> Any:
        """Return what one of them answers; None for one that is no more, or has no such route."""
        path, principal = request.rel_url.raw_path_qs, auth.caller(request)
        headers = self._others.headers(request, principal, path, other)
        asking = self._others.session.get(
            url_of(other, path), headers=headers, allow_redirects=False
        )
        try:
            async with asyncio.timeout(ANSWER_SECONDS), asking as answer:
                body = await relay_headers.whole(answer)
                if answer.status == NotFound.status:  # it has not the plugin, and so holds nothing
                    return None
                if answer.status != 200:
                    away(other, f"{answer.status}: {body[: relay_headers.SAID]!r}")
                    raise Unavailable("A front-end does not tell what it holds", retry_after=1)
                return msgspec.json.decode(body, type=kind)
        except (TimeoutError, aiohttp.ClientError, msgspec.DecodeError, UnicodeError) as error:
            if self._others.is_gone(other, error):
                return None
            raise away(other, error) from None

    async def _asked(
        self, request: web.Request, holder: Listed, principal: Principal
    ) -> web.StreamResponse:
        path = request.rel_url.raw_path_qs
        headers = self._others.headers(request, principal, path, holder)
        async with contextlib.AsyncExitStack() as stack:
            body = bodies.whole(request, self._budget, self._table.limits(request))
            data = await stack.enter_async_context(body) if request.can_read_body else None
            asking = self._others.session.request(
                request.method,
                url_of(holder, path),
                headers=headers,
                data=None if data is None else io.BytesIO(data),  # bytes would go at once
                allow_redirects=False,
            )
            try:
                answer = await self._others.while_alive(holder, stack.enter_async_context(asking))
                if _is_whole(request, answer):
                    whole = await self._others.while_alive(holder, answer.read())
                    kept = relay_headers.kept(answer)
                    if request.method == hdrs.METH_HEAD and answer.content_length is not None:
                        kept[hdrs.CONTENT_LENGTH] = str(answer.content_length)
                    return web.Response(body=whole, status=answer.status, headers=kept)
                if answer.status == auth.Unauthorized.status:  # of us, and not of who asks
                    said = await self._others.while_alive(holder, relay_headers.whole(answer))
                    raise away(holder, f"{answer.status}: {said[: relay_headers.SAID]!r}")
            except aiohttp.ClientError as error:
                raise self._others.refusal(holder, error) from None
            return await self._passed_on(request, holder, answer)

    async def _passed_on(
        self, request: web.Request, holder: Listed, answer: aiohttp.ClientResponse
    ) -> web.StreamResponse:
        """Send on an answer as it comes. What breaks off ends the connection: it has begun."""
        response = web.StreamResponse(status=answer.status, headers=relay_headers.kept(answer))
        response.content_length = answer.content_length
        await response.prepare(request)
        try:
            while chunk := await self._others.while_alive(holder, answer.content.readany()):
                async with asyncio.timeout(self._unread_timeout):
                    await response.write(chunk)
        except (aiohttp.ClientError, NotFound, TimeoutError) as error:
            if request.transport is not None:  # an error's answer would follow as if it were data
                request.transport.abort()
            raise ConnectionResetError("an answer of another front-end broke off") from error
        return response

    async def _socket(
        self, request: web.Request, holder: Listed, principal: Principal
    ) -> web.StreamResponse:
        """Relay a WebSocket; one that cannot be is accepted, and closed with the reason.

        What the front-end that holds it answers instead of a WebSocket is passed on.
        """
        self._metrics.relayed.add("socket")
        path = relay_headers.without_token(request)
        offered = request.headers.get(hdrs.SEC_WEBSOCKET_PROTOCOL, "")
        headers = self._others.headers(request, principal, path, holder)
        connecting = self._others.session.ws_connect(
            url_of(holder, path),
            headers=headers,
            protocols=[each.strip() for each in offered.split(",") if each.strip()],
            autoping=False,
            autoclose=False,
            timeout=aiohttp.ClientWSTimeout(ws_close=relay_sockets.CLOSE_SECONDS),
            max_msg_size=0,
        )
        try:
            far = await self._others.while_alive(holder, connecting)
        except (aiohttp.ClientError, NotFound) as error:
            if isinstance(error, relay_headers.RefusedSocketError):
                if error.status >= 400 and error.status != auth.Unauthorized.status:
                    return web.Response(body=error.body, status=error.status, headers=error.headers)
                away(holder, error)  # it refuses us and not who asks, or is no front-end
            gone = isinstance(error, NotFound) or self._others.is_gone(holder, error)
            code = NO_SESSION if gone else TRY_AGAIN
            async with self._sockets.relay(request) as near:
                await relay_sockets.end(near, code, GONE if gone else AWAY)
            return near
        chosen = [far.protocol] if far.protocol else []
        async with far, self._sockets.relay(request, chosen) as near:
            with contextlib.suppress(NotFound):  # it has been closed as going away
                await self._others.while_alive(holder, relay_sockets.join(near, far))
            return near


def _is_whole(request: web.Request, answer: aiohttp.ClientResponse) -> bool:
    """Whether an answer is short, and so is read before it is sent on: errors are put in a form."""
    if answer.status in {204, 304, auth.Unauthorized.status} or request.method == hdrs.METH_HEAD:
        return answer.status != auth.Unauthorized.status
    return answer.content_length is not None and answer.content_length <= WHOLE
