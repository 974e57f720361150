"""Requests to other front-ends: with whose identity, and with which timeouts."""

from __future__ import annotations

import asyncio
import errno
import logging
from typing import TYPE_CHECKING, TypeVar

import aiohttp
from yarl import URL

from mataserver.errors import NotFound, Unavailable
from mataserver.frontends.vouching import HEADER
from mataserver.http import proxies, relay_headers
from mataserver.http.routing import REQUEST_ID

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from aiohttp import web
    from multidict import CIMultiDict

    from mataserver.errors import MataError
    from mataserver.frontends.roll import Listed, Roll
    from mataserver.frontends.vouching import Voucher
    from mataserver.principals import Principal

T = TypeVar("T")

CONNECT_SECONDS = 3.0
WATCH = 0.5
"""Interval of the checks whether a front-end with an answer outstanding is alive."""

GONE = "the server that held it is gone"
AWAY = "The server that holds it cannot be reached now"

log = logging.getLogger("mataserver.frontends")


class OtherFrontends:
    """Sends requests to other front-ends. ``voucher`` and the connections exist while open."""

    def __init__(self, roll: Roll, *, trust_proxy: bool) -> None:
        self.voucher: Voucher | None = None
        self._roll = roll
        self._trust_proxy = trust_proxy
        self._client: aiohttp.ClientSession | None = None

    def open(self, voucher: Voucher) -> None:
        """Start accepting and issuing vouchers."""
        self.voucher = voucher
        self._client = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            middlewares=(relay_headers.keep_refusals,),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
        )

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.close()

    def headers(
        self, request: web.Request, principal: Principal, path: str, to: Listed
    ) -> CIMultiDict[str]:
        """Return the headers of a request for ``path`` on behalf of the caller."""
        if self.voucher is None:
            raise Unavailable("The server has not joined the other front-ends yet", retry_after=1)
        given = relay_headers.sent(request)
        given["Accept-Encoding"] = "identity"
        given["X-Request-Id"] = request[REQUEST_ID]  # the same in both logs
        given.update(proxies.sent_on(request, trusted=self._trust_proxy))
        given[HEADER] = self.voucher.give(principal, request.method, path, to.tag)
        return given

    @property
    def session(self) -> aiohttp.ClientSession:
        """The connections. Raises ``Unavailable`` before they exist."""
        if self._client is None:
            raise Unavailable("The server has not joined the other front-ends yet", retry_after=1)
        return self._client

    async def while_alive(self, holder: Listed, work: Awaitable[T]) -> T:
        """Await ``work``. Raises ``NotFound`` if the front-end stops responding first."""
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=WATCH)
                if not task.done() and self._roll.silent(holder):
                    raise NotFound(f"Session not found: {GONE}")
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})

    def refusal(self, holder: Listed, error: Exception) -> MataError:
        """Return the error for a front-end that could not be reached."""
        if self.is_gone(holder, error):
            return NotFound(f"Session not found: {GONE}")
        return away(holder, error)

    def is_gone(self, holder: Listed, error: Exception) -> bool:
        """Whether a front-end that could not be reached no longer exists."""
        refused = isinstance(error, aiohttp.ClientConnectorError) and (
            error.os_error.errno == errno.ECONNREFUSED
        )
        return refused or self._roll.silent(holder)


def away(holder: Listed, error: object) -> Unavailable:
    """Return the error for a live front-end that does not answer."""
    log.warning("the front-end at %s cannot be asked: %s", holder.entry.address, error)
    return Unavailable(AWAY, retry_after=1)


def url_of(other: Listed, path: str) -> URL:
    """Return the URL of a path at a front-end."""
    return URL(other.entry.address + path, encoded=True)
