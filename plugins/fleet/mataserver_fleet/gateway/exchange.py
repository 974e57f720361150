"""One request to one server, and what can go wrong with it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from mataserver import MataError
from mataserver_fleet.gateway.bodies import BufferedBody, StreamingBody
from mataserver_fleet.gateway.http1 import MalformedError

if TYPE_CHECKING:
    from mataserver_fleet.gateway.bodies import SentBody
    from mataserver_fleet.gateway.connections import ConnectionPool, UpstreamConnection
    from mataserver_fleet.gateway.http1 import Fields
    from mataserver_fleet.gateway.servers import Server
    from mataserver_fleet.gateway.snapshot import Target


_KEY_REFUSED_STATUSES = frozenset({401, 403})
"""Statuses by which a mataserver says that it does not know the gateway's key."""


class UpstreamFailure(MataError):
    """502: a server failed to answer.

    sent:  whether it may have received the request.
    begun: whether a part of its answer has arrived.
    """

    status = 502

    def __init__(
        self, detail: str, *, sent: bool, begun: bool = False, status: int | None = None
    ) -> None:
        super().__init__(detail, status=status)
        self.sent = sent
        self.begun = begun


def check_key_accepted(target: Target, status: int) -> None:
    """Raise ``UpstreamFailure`` for a server that does not know the gateway's key.

    What it says of that is not the consumer's to read.
    """
    if target.token and status in _KEY_REFUSED_STATUSES:
        raise UpstreamFailure("The server rejects the gateway's credentials", sent=False)


class UpstreamRequest(NamedTuple):
    """A request to a server for a consumer. ``fields`` are header lines, each with its CRLF."""

    method: str
    path: str
    fields: bytes
    body: BufferedBody | StreamingBody | SentBody | None
    consumer: int

    def head(self, target: Target) -> bytes:
        """Return the head of the request, always with a Content-Length."""
        size = 0 if self.body is None else self.body.size
        line = f"{self.method} {self.path} HTTP/1.1\r\nHost: {target.authority}\r\n".encode("ascii")
        has_length = self.body is not None or self.method != "GET"
        length = b"Content-Length: %d\r\n" % size if has_length else b""
        key = target.key_for(self.consumer) if target.token else ""
        token = f"Authorization: Bearer {key}\r\n".encode() if key else b""
        return b"".join((line, length, token, self.fields, b"\r\n"))


class SentMessage(NamedTuple):
    """A message that was sent already, by ``connection``; ``deadline`` is the loop's time."""

    connection: UpstreamConnection
    deadline: float


class UpstreamResponse:
    """A server's answer. Its body is read by ``chunk``, nothing after its end."""

    __slots__ = ("_connection", "chunk", "fields", "length", "status")

    def __init__(
        self, connection: UpstreamConnection, status: int, fields: Fields, length: int | None
    ) -> None:
        self._connection = connection
        self.status = status
        self.fields = fields
        self.length = length
        self.chunk = connection.chunk

    @property
    def is_complete(self) -> bool:
        """Whether all of it has arrived."""
        return self._connection.is_complete


class Exchange:
    """Sends a message to a server and gives the answer, whose body has yet to be read.

    seconds: until the answer begins; of a body that passes through, until more of it is taken.
    movable: whether it is given up once probes find the server dead.
    begun:   the message, where it was sent already.

    Raises ``UpstreamFailure``, and what kept the body from arriving.
    """

    __slots__ = (
        "_connection",
        "_connections",
        "_message",
        "_movable",
        "_seconds",
        "_sent_message",
        "_server",
        "_target",
    )

    def __init__(
        self,
        connections: ConnectionPool,
        target: Target,
        server: Server,
        message: UpstreamRequest,
        seconds: float,
        *,
        movable: bool,
        begun: SentMessage | None = None,
    ) -> None:
        self._connections = connections
        self._target = target
        self._server = server
        self._message = message
        self._seconds = seconds
        self._movable = movable
        self._sent_message = begun
        self._connection: UpstreamConnection | None = None if begun is None else begun.connection

    async def __aenter__(self) -> UpstreamResponse:
        """Send it and wait for the beginning of the answer."""
        begun = self._sent_message
        timer = (
            asyncio.timeout(self._seconds) if begun is None else asyncio.timeout_at(begun.deadline)
        )
        self._server.begin(timer if self._movable else None)
        try:
            async with timer:
                connection = await self._send(timer) if begun is None else begun.connection
                return await self._answer(connection)
        except BaseException as error:
            self._end()
            if isinstance(error, (OSError, MalformedError)):
                raise self._to_failure(error) from error
            raise
        finally:
            self._server.release(timer)

    async def __aexit__(self, *exc: object) -> None:
        """Release the connection; it is reused where the answer was read to its end."""
        self._end()

    def _end(self) -> None:
        self._server.end()
        if self._connection is not None:
            self._connections.release(self._target, self._connection)

    async def _send(self, timer: asyncio.Timeout) -> UpstreamConnection:
        """Send the message; return the connection by which it is answered."""
        body, target = self._message.body, self._target
        connection = self._connection = await self._connections.acquire(target)
        transport = connection.begin_request()
        head = self._message.head(target)
        if isinstance(body, StreamingBody):
            transport.write(head)
            await body.send(connection.write, lambda: self._wait_writable(connection, timer))
        elif isinstance(body, BufferedBody):
            transport.writelines((head, *body.pieces))
        else:
            transport.write(head)
        if not isinstance(body, StreamingBody) or body.whole:
            connection.end_request()
        return connection

    async def _answer(self, connection: UpstreamConnection) -> UpstreamResponse:
        status, fields, length, _, _ = await connection.head()
        if not (200 <= status < 300 or status >= 400):
            raise UpstreamFailure(f"The server answered {status}", sent=True)
        return UpstreamResponse(connection, status, fields, length)

    async def _wait_writable(self, connection: UpstreamConnection, timer: asyncio.Timeout) -> bool:
        """Wait until more may be sent; the time limit restarts while the body keeps arriving."""
        loop = asyncio.get_running_loop()
        timer.reschedule(loop.time() + self._seconds)
        more = await connection.wait_writable()
        timer.reschedule(loop.time() + self._seconds)
        return more

    def _to_failure(self, error: Exception) -> UpstreamFailure:
        """Return the failure for an exception, with whether the server may have the request."""
        if self._connection is None:
            return UpstreamFailure("The server cannot be reached", sent=False)
        if isinstance(error, TimeoutError):
            if not self._server.is_alive:
                return UpstreamFailure("The server has stopped answering", sent=True)
            late = f"The server did not answer within {self._seconds:.3g} s"
            return UpstreamFailure(late, sent=True, status=504)
        if isinstance(error, MalformedError):
            return UpstreamFailure("The server's answer is not HTTP", sent=True)
        return UpstreamFailure("The server ended the connection without an answer", sent=True)
