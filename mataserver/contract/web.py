"""Requests and answers as a service has them: bodies, forms, events and sockets, within limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from aiohttp import web

    from mataserver.contract.bodies import Form, Saved, Share, Uploads
    from mataserver.contract.claims import RepeatedClaim
    from mataserver.contract.routes import Event
    from mataserver.errors import MataError
    from mataserver.outbound import Policy, Response
    from mataserver.outbound.asking import Content
    from mataserver.principals import Principal


T = TypeVar("T")
P = TypeVar("P", bound="asyncio.Protocol")


class Socket(Protocol):
    """A WebSocket within the server's limits: pings, a client that reads, an end at a shutdown."""

    def __aiter__(self) -> AsyncIterator[str | bytes]:
        """Iterate over the messages until either side ends."""
        ...

    async def send(self, message: str | bytes) -> None:
        """Send a message. Raises ``ConnectionError`` when the peer is gone or does not read."""
        ...

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """End the connection with a code."""
        ...


class Http(Protocol):
    """Requests and answers, within the server's limits. Raises ``MataError`` children."""

    def read_body(self, request: web.Request) -> AbstractAsyncContextManager[bytes]:
        """Give the whole body; it counts as in flight until the context ends.

        Raises 400, 408, 413, 415 and 503.
        """
        ...

    def read_json(self, request: web.Request, kind: type[T]) -> AbstractAsyncContextManager[T]:
        """Give the body as a ``kind``. Raises as ``read_body``, and 400 and 422 for wrong JSON."""
        ...

    def read_form(
        self, request: web.Request, *, field: str = "file"
    ) -> AbstractAsyncContextManager[Form]:
        """Give a form whose file is ``field``; it counts as in flight until the context ends.

        Raises as ``read_body``, 403 for a page of another origin, 415 for what is no form, 422 for
        one without the file.
        """
        ...

    async def save_body(self, request: web.Request, path: Path, *, field: str = "file") -> Saved:
        """Write an upload to a file as it arrives: the body itself, or ``field`` of a form.

        No more than a chunk is in memory. What was written is removed when the upload fails or the
        client leaves. Raises as ``read_body``, 403 for a page of another origin, 422 for a form
        without the field, 507 when the disk is full.
        """
        ...

    async def save_files(self, request: web.Request, folder: Path, *, most: int = 1000) -> Uploads:
        """Write every file of a form, ``most`` parts at most, into an empty folder.

        No more than a chunk is in memory. Raises as ``save_body``; what was written then is for
        the caller to remove, with the folder.
        """
        ...

    async def decode(self, data: bytes, decode: Callable[[bytes], T]) -> T:
        """Return ``decode(data)``; of a body over 1 MB beside the event loop, one at a time."""
        ...

    def require_json(self, request: web.Request) -> None:
        """Raise 415 unless the body is declared as JSON, as ``read_json`` does."""
        ...

    def check_origin(self, request: web.Request) -> None:
        """Raise 403 for what a page of another origin sends.

        For bodies that a browser sends anywhere without asking first: forms, and plain bytes.
        """
        ...

    def read_chunks(self, request: web.Request) -> AsyncIterator[bytes]:
        """Iterate over the body as it arrives: for uploads that are kept also when they break off.

        Raises as ``read_body``, and 403 for a page of another origin.
        """
        ...

    def respond(
        self, value: object, *, status: int = 200, request: web.Request | None = None
    ) -> web.Response:
        """Answer with a value as JSON, or as MessagePack where the ``request`` asks for it."""
        ...

    async def events(
        self,
        request: web.Request,
        events: AsyncGenerator[Event],
        failed: Callable[[MataError], bytes] | None = None,
    ) -> web.StreamResponse:
        """Answer with Server-Sent Events: a name and a value, and an id if there is a third.

        A client that connects anew sends the last id as ``Last-Event-ID``. Bytes are sent as they
        are: an event of another form, and of one that ends the stream a ``LastEvent``. A failure
        before the first event is an ordinary error, a later one an event ``error``, or what
        ``failed`` makes of it.
        """
        ...

    def socket(self, request: web.Request) -> AbstractAsyncContextManager[Socket]:
        """Accept a WebSocket."""
        ...

    def raw_socket(
        self, request: web.Request, protocols: Sequence[str] = ()
    ) -> AbstractAsyncContextManager[web.WebSocketResponse]:
        """Accept a WebSocket as a relay does: frames as they come, 1001 at a shutdown."""
        ...

    def budget(self) -> Share:
        """Return a share of the budget of bytes in flight, which holds nothing yet."""
        ...

    def address(self, request: web.Request) -> str:
        """Return the client's address, behind a proxy that is trusted too."""
        ...

    def url(self, request: web.Request, scheme: Literal["http", "ws"] = "http") -> str:
        """Return the base URL by which the client knows the server, without a slash at its end."""
        ...

    def sign_in(self, request: web.Request, response: web.Response, principal: Principal) -> str:
        """Begin a browser's session as somebody: the answer carries its cookie.

        Returns the token that the page sends as ``X-CSRF-Token`` with what changes something.
        """
        ...

    def sign_out(self, request: web.Request, response: web.Response) -> None:
        """End the session of a browser that asks, if it has one."""
        ...

    def learn(self, request: web.Request, repeat: RepeatedClaim) -> None:
        """Have requests with the head of one that was claimed and answered be answered by another.

        They pass by the parser of HTTP. A head that is unusual, as one with a cookie, is not
        learnt, and nothing is where several services claim requests.
        """
        ...

    def connect(self, factory: Callable[[], P]) -> P:
        """Connect a protocol to this server within the process, without a socket.

        As ``loop.create_connection`` does: the protocol speaks HTTP to the server, whose requests
        are judged, limited, counted and answered as those of any connection; the ``connect`` gives
        no rights. Whoever looks at such a request finds ``request.get_extra_info("pipe")``. Raises
        ``Unavailable`` before the server listens.
        """
        ...

    def outbound(
        self,
        method: str,
        url: str,
        policy: Policy,
        *,
        headers: Mapping[str, str] | None = None,
        body: Content = None,
    ) -> AbstractAsyncContextManager[Response]:
        """Ask an address that a user named: public ones, and those of ``outbound_hosts``."""
        ...

    async def check_outbound(self, url: str, policy: Policy) -> tuple[str, ...]:
        """Return the addresses that ``outbound`` would ask now. Raises ``BadRequest`` for others.

        For a URL that is kept to be asked later; or for who connects without HTTP, to these.
        """
        ...
