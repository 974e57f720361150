"""One request to one server, and what can go wrong with it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

import aiohttp
from yarl import URL

from mataserver import MataError

if TYPE_CHECKING:
    from mataserver_fleet.gateway.bodies import Passing, Whole
    from mataserver_fleet.gateway.headers import Fields
    from mataserver_fleet.gateway.servers import Server

CONNECT = 2.0
"""Seconds that a server may take to accept a connection."""
IDLE = 15.0
"""Seconds that an idle connection is kept: less than servers keep theirs."""
_AUTOMATIC = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")


class Failed(MataError):
    """502: a server gave no answer.

    sent:  whether it may have received the request.
    begun: whether a part of its answer has come.
    """

    status = 502

    def __init__(
        self, detail: str, *, sent: bool, begun: bool = False, status: int | None = None
    ) -> None:
        super().__init__(detail, status=status)
        self.sent = sent
        self.begun = begun


def new_session() -> aiohttp.ClientSession:
    """Return what asks servers: it follows nothing, unpacks nothing and adds nothing."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        skip_auto_headers=_AUTOMATIC,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT),
    )


class Message(NamedTuple):
    """What a server is sent."""

    method: str
    url: str
    headers: Fields
    body: Whole | Passing | None


class Exchange:
    """Sends a message to a server and gives the answer, whose body has yet to be read.

    seconds: until the answer begins.
    movable: whether it is given up once probes tell that the server is dead.

    Raises ``Failed``, and what kept the body from arriving.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        server: Server,
        message: Message,
        seconds: float,
        *,
        movable: bool,
    ) -> None:
        self._session = session
        self._server = server
        self._message = message
        self._seconds = seconds
        self._movable = movable
        self._answer: aiohttp.ClientResponse | None = None

    async def __aenter__(self) -> aiohttp.ClientResponse:
        """Send it and wait for the beginning of the answer."""
        timer = asyncio.timeout(self._seconds)
        self._server.begin(timer if self._movable else None)
        try:
            async with timer:
                self._answer = await self._send()
            return self._answer
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise self._meaning(error) from error
        finally:
            self._server.release(timer)
            if self._answer is None:
                self._server.end()

    async def __aexit__(self, *exc: object) -> None:
        """Let go of the connection: for the next request where the answer was read to its end."""
        self._server.end()
        if self._answer is None:
            return
        if self._answer.content.at_eof():
            self._answer.release()
        else:
            self._answer.close()

    async def _send(self) -> aiohttp.ClientResponse:
        method, url, headers, body = self._message
        return await self._session.request(
            method, URL(url, encoded=True), headers=headers, data=body, allow_redirects=False
        )

    def _meaning(self, error: Exception) -> MataError:
        """Return what a failure means: who failed, and whether the server may have the request."""
        problem = getattr(self._message.body, "error", None)
        if isinstance(problem, MataError):
            return problem
        if isinstance(error, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)):
            return Failed("The server cannot be reached", sent=False)
        if isinstance(error, TimeoutError):
            return _late(self._server, self._seconds)
        if isinstance(error, (aiohttp.ClientResponseError, ValueError)):
            return Failed("The server answered what is no HTTP", sent=True)
        return Failed("The server ended the connection without an answer", sent=True)


def _late(server: Server, seconds: float) -> Failed:
    if not server.alive:
        return Failed("The server has stopped answering", sent=True)
    return Failed(f"The server did not answer within {seconds:.3g} s", sent=True, status=504)
