"""The HTTP side of the contract: bodies, forms, events and sockets, within the limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from aiohttp import web

    from mataserver.contract.bodies import Form, Saved, Share, Uploads
    from mataserver.contract.claims import RepeatedClaim
    from mataserver.contract.routes import Event
    from mataserver.errors import MataError
    from mataserver.outbound import Policy, Response
    from mataserver.outbound.client import Content
    from mataserver.principals import Principal


T = TypeVar("T")
P = TypeVar("P", bound="asyncio.Protocol")


class Socket(Protocol):
    """A WebSocket within the server's limits: pings, slow-reader timeout, close at shutdown."""

    def __aiter__(self) -> AsyncIterator[str | bytes]:
        """Yield the messages until either side closes."""

    async def send(self, message: str | bytes) -> None:
        """Send a message. Raises ``ConnectionError`` if the peer is gone or does not read."""

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection with a code."""


class Http(Protocol):
    """Requests and answers, within the server's limits. Raises subclasses of ``MataError``."""

    def read_body(self, request: web.Request) -> AbstractAsyncContextManager[bytes]:
        """Yield the whole body; it counts as in flight until the context ends.

        Raises 400, 408, 413, 415 and 503.
        """

    def read_json(self, request: web.Request, kind: type[T]) -> AbstractAsyncContextManager[T]:
        """Yield the body as a ``kind``. Raises as ``read_body``; 400 and 422 for invalid JSON."""

    def read_form(
        self, request: web.Request, *, field: str = "file"
    ) -> AbstractAsyncContextManager[Form]:
        """Yield a form whose file is ``field``; it counts as in flight until the context ends.

        Raises as ``read_body``, 403 for a page of another origin, 415 if it is not a form, 422
        without the file.
        """

    async def save_body(self, request: web.Request, path: Path, *, field: str = "file") -> Saved:
        """Stream an upload to a file: the body itself, or ``field`` of a form.

        Buffers only a chunk. Removes the file if the upload fails or the client disconnects. The
        limit is the file's: a form's frame and other fields are beside it. Raises as ``read_body``,
        403 for a page of another origin, 422 for a form without the field, 507 if the disk is full.
        """

    async def save_files(self, request: web.Request, folder: Path, *, most: int = 1000) -> Uploads:
        """Stream every file of a form, at most ``most`` parts, into an empty folder.

        Buffers only a chunk. Raises as ``save_body``; the caller must then remove the folder with
        partial files.
        """

    async def decode(self, data: bytes, decode: Callable[[bytes], T]) -> T:
        """Return ``decode(data)``; over 1 MB in a thread, one at a time."""

    def require_json(self, request: web.Request) -> None:
        """Raise 415 unless the body is declared as JSON, as ``read_json`` does."""

    def warn_of_unknown(self, request: web.Request, data: bytes, kind: type[Any]) -> None:
        """Name the fields of a valid JSON body that a ``kind`` does not have.

        As by ``read_json`` they are in the answer's ``X-Warning`` and in the log.
        """

    def check_origin(self, request: web.Request) -> None:
        """Raise 403 for a request of a page of another origin.

        For bodies that a browser sends cross-origin without a preflight: forms, and plain bytes.
        """

    def read_chunks(self, request: web.Request) -> AsyncIterator[bytes]:
        """Yield the body as it arrives: for uploads that are kept even if they are interrupted.

        Raises as ``read_body``, and 403 for a page of another origin.
        """

    def respond(
        self, value: object, *, status: int = 200, request: web.Request | None = None
    ) -> web.Response:
        """Answer with a value as JSON, or as MessagePack if the ``request`` accepts it."""

    async def events(
        self,
        request: web.Request,
        events: AsyncIterable[Event],
        failed: Callable[[MataError], bytes] | None = None,
    ) -> web.StreamResponse:
        """Answer with Server-Sent Events of any async iterable: name, value and an optional id.

        A client that reconnects sends the last id as ``Last-Event-ID``. Bytes are sent unchanged:
        an event in another form; a ``LastEvent`` ends the stream. A failure before the first event
        is an ordinary error, a later one an ``error`` event, or what ``failed`` returns.
        """

    def socket(self, request: web.Request) -> AbstractAsyncContextManager[Socket]:
        """Accept a WebSocket."""

    def raw_socket(
        self, request: web.Request, protocols: Sequence[str] = ()
    ) -> AbstractAsyncContextManager[web.WebSocketResponse]:
        """Accept a WebSocket for relaying: frames as they arrive, closed with 1001 at shutdown.

        Nothing is answered by itself, neither a ping nor, until the context ends, a close frame.
        """

    def budget(self, owner: str | None = None) -> Share:
        """Return a new, empty share of the budget of bytes in flight.

        ``caller_share`` limits what an ``owner`` holds: the id of the caller, which is like no
        other service's.
        """

    def address(self, request: web.Request) -> str:
        """Return the client's address, also behind a trusted proxy."""

    def url(self, request: web.Request, scheme: Literal["http", "ws"] = "http") -> str:
        """Return the base URL by which the client reaches the server, without a trailing slash."""

    def sign_in(self, request: web.Request, response: web.Response, principal: Principal) -> str:
        """Start a browser session for a principal: sets a cookie on the answer.

        Returns the CSRF token that the page must send as ``X-CSRF-Token`` with modifying requests.
        """

    def sign_out(self, request: web.Request, response: web.Response) -> None:
        """End the browser session of the request, if there is one.

        Raises a ``MataError`` with 403 for the request of a page of another origin; with a cookie
        also if ``cors_origins`` has that origin.
        """

    def learn(self, request: web.Request, repeat: RepeatedClaim) -> None:
        """Answer further requests with the head of this claimed one by ``repeat``.

        They bypass the HTTP parser. Unusual heads, such as with a cookie, are not cached, and none
        are if several services claim requests.
        """

    def connect(self, factory: Callable[[], P]) -> P:
        """Connect a protocol to this server within the process, without a socket.

        Like ``loop.create_connection``: the protocol speaks HTTP to the server, which
        authenticates, limits, counts and answers its requests like any other; the connection grants
        no rights. Such a request has ``request.get_extra_info("pipe")``. Raises ``Unavailable``
        before the server listens.
        """

    def outbound(
        self,
        method: str,
        url: str,
        policy: Policy,
        *,
        headers: Mapping[str, str] | None = None,
        body: Content = None,
    ) -> AbstractAsyncContextManager[Response]:
        """Send a request to a user-supplied URL: public hosts, and those of ``outbound_hosts``."""

    async def check_outbound(self, url: str, policy: Policy) -> tuple[str, ...]:
        """Return the addresses ``outbound`` would connect to. Raises ``BadRequest`` for others.

        For a URL that is stored for later, or for a caller that connects to them by other means
        than HTTP.
        """
