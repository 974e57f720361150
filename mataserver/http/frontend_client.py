"""Requests to other front-ends: with whose identity, and with which timeouts."""

from __future__ import annotations

import asyncio
import errno
import logging
from typing import TYPE_CHECKING, TypeVar

import aiohttp
from yarl import URL

from mataserver.errors import NotFound, Unavailable
from mataserver.frontends.identity_assertions import ASSERTION_HEADER
from mataserver.http import proxies, relay_headers
from mataserver.http.common_headers import REQUEST_ID

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from aiohttp import web
    from multidict import CIMultiDict

    from mataserver.errors import MataError
    from mataserver.frontends.directory import FrontendDirectory, PeerFrontend
    from mataserver.frontends.identity_assertions import IdentityAssertions
    from mataserver.principals import Principal

T = TypeVar("T")

CONNECT_TIMEOUT = 3.0
LIVENESS_INTERVAL = 0.5
"""Interval of the checks whether a front-end with an answer outstanding is alive."""

GONE_REASON = "the server that held it is gone"
UNREACHABLE_REASON = "The server that holds it cannot be reached now"

log = logging.getLogger("mataserver.frontends")


class FrontendClient:
    """Sends requests to other front-ends. ``assertions`` and the connections exist while open."""

    def __init__(self, directory: FrontendDirectory, *, trust_proxy: bool) -> None:
        self.assertions: IdentityAssertions | None = None
        self._directory = directory
        self._trust_proxy = trust_proxy
        self._session: aiohttp.ClientSession | None = None

    def open(self, assertions: IdentityAssertions) -> None:
        """Start issuing and accepting identity assertions."""
        self.assertions = assertions
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            middlewares=(relay_headers.raise_refused_upgrade,),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT),
        )

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    def headers(
        self, request: web.Request, principal: Principal, path: str, to: PeerFrontend
    ) -> CIMultiDict[str]:
        """Return the headers of a request for ``path`` on behalf of the caller."""
        if self.assertions is None:
            raise Unavailable("The server has not joined the other front-ends yet", retry_after=1)
        given = relay_headers.forwarded_request(request)
        given["Accept-Encoding"] = "identity"
        given["X-Request-Id"] = request[REQUEST_ID]  # the same in both logs
        given.update(proxies.forwarded_headers(request, trusted=self._trust_proxy))
        given[ASSERTION_HEADER] = self.assertions.issue(principal, request.method, path, to.tag)
        return given

    @property
    def session(self) -> aiohttp.ClientSession:
        """The connections. Raises ``Unavailable`` before they exist."""
        if self._session is None:
            raise Unavailable("The server has not joined the other front-ends yet", retry_after=1)
        return self._session

    async def while_alive(self, holder: PeerFrontend, work: Awaitable[T]) -> T:
        """Await ``work``. Raises ``NotFound`` if the front-end stops responding first."""
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=LIVENESS_INTERVAL)
                if not task.done() and self._directory.is_silent(holder):
                    raise NotFound(f"Session not found: {GONE_REASON}")
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})

    def connect_error(self, holder: PeerFrontend, error: Exception) -> MataError:
        """Return the error for a front-end that could not be reached."""
        if self.is_gone(holder, error):
            return NotFound(f"Session not found: {GONE_REASON}")
        return report_unreachable(holder, error)

    def is_gone(self, holder: PeerFrontend, error: Exception) -> bool:
        """Whether a front-end that could not be reached no longer exists."""
        refused = isinstance(error, aiohttp.ClientConnectorError) and (
            error.os_error.errno == errno.ECONNREFUSED
        )
        return refused or self._directory.is_silent(holder)


def report_unreachable(holder: PeerFrontend, error: object) -> Unavailable:
    """Return the error for a live front-end that does not answer."""
    log.warning("the front-end at %s cannot be asked: %s", holder.entry.address, error)
    return Unavailable(UNREACHABLE_REASON, retry_after=1)


def url_of(other: PeerFrontend, path: str) -> URL:
    """Return the URL of a path at a front-end."""
    return URL(other.entry.address + path, encoded=True)
