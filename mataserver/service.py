"""What a plugin's service gives and gets: routes that describe themselves, and a small context.

The server's own handlers stand on the same: a service is an object with ``routes()``, entered and
left with the server.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

from mataserver.errors import Unavailable

if TYPE_CHECKING:
    import asyncio
    import logging
    from collections.abc import (
        AsyncGenerator,
        AsyncIterator,
        Awaitable,
        Callable,
        Iterable,
        Mapping,
        Sequence,
    )
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from aiohttp import web

    from mataserver.errors import MataError
    from mataserver.handles import Models, Sessions
    from mataserver.outbound import Content, Policy, Response
    from mataserver.principals import Credentials, Principal
    from mataserver.processes import Child
    from mataserver.tasks import Tasks

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
    ErrorForm = Callable[[int, str], object]
    """Makes of a status and a sentence what is answered as JSON: a struct or a mapping."""
    Event = tuple[str, object] | tuple[str, object, str] | bytes
    """An event of a stream: name, value and perhaps an id, or all of it as it is sent."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Body:
    """A request or response body for the OpenAPI document.

    ``example`` is one that the server takes as it stands, of a form its fields.
    """

    content_type: str
    schema: Any = None
    example: Any = None


@dataclass(frozen=True, slots=True)
class Route:
    """One route and all that the OpenAPI document says about it.

    ``parameters`` are query parameters: name to (type, required, description); ``headers`` are
    those of the request, alike. ``errors`` are the statuses besides ``status`` that it answers, in
    the form of ``problem``. An ``optional`` body may be left out. Without a ``summary`` it is
    served and not documented.

    ``public`` routes answer without credentials: ``request[PRINCIPAL]`` is then who asks, or None.
    Others answer those who have the scope ``needs``, of ``mataserver.SCOPES``; ``ANYBODY`` is
    whoever is known, and None asks for every scope. ``denied`` is the status for credentials that
    are not accepted.

    A body may have ``max_body`` bytes (the server's ``max_body_mb`` if None), which ``Expect``,
    ``Content-Length`` and the bytes themselves are held against. It must have arrived in
    ``body_timeout`` seconds in all, or with "idle" go on arriving.

    ``error_headers`` are those of every answer that is an error, whoever made it.

    ``when`` claims a route that exists already for the requests that it knows: its parameters and
    answers are then documented beside those of that route, and ``error_form`` makes the bodies of
    its errors, whoever made them, as ``error_forms()`` does for a whole path. ``socket`` says that
    it answers WebSockets: there, and nowhere else, ``?token=`` counts as credentials.
    """

    method: str
    path: str
    handler: Handler
    summary: str = ""
    tag: str = ""
    request: tuple[Body, ...] = ()
    response: tuple[Body, ...] = ()
    status: int = 200
    errors: tuple[int, ...] = ()
    parameters: dict[str, tuple[Any, bool, str]] = field(default_factory=dict)
    headers: dict[str, tuple[Any, bool, str]] = field(default_factory=dict)
    problem: Any = None
    optional: bool = False
    public: bool = False
    needs: str | None = None
    denied: int = 403
    max_body: int | None = None
    body_timeout: Literal["total", "idle"] = "total"
    error_headers: dict[str, str] = field(default_factory=dict)
    when: Callable[[web.Request], bool] | None = None
    error_form: ErrorForm | None = None
    documented: bool = True
    socket: bool = False


class LastEvent(bytes):
    """The event behind which nothing follows: a client that then leaves has had everything."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page for people that a service serves: what the navigation shows, and where it is.

    ``icon`` is one character, or empty; ``needs`` the scope without which it is not shown;
    ``group`` where the navigation has it: what one tries, works on, or operates.
    """

    title: str
    path: str
    icon: str = ""
    needs: str = "any"
    group: Literal["use", "work", "operate"] = "work"


@dataclass(frozen=True, slots=True)
class Server:
    """The server's settings that a service may need. Sizes in bytes, times in seconds.

    ``max_inflight`` is what the bodies of all requests may hold together, ``max_connections`` as
    many as the file descriptors suffice for where the setting says nothing.
    """

    host: str
    port: int
    max_body: int
    max_pixels: int
    max_tokens: int
    queue_limit: int
    trust_proxy: bool
    auth_mode: str
    infer_timeout: float
    load_timeout: float
    drain_timeout: float
    unread_timeout: float
    body_timeout: float
    max_inflight: int
    max_connections: int


class Blocking(Protocol):
    """Runs a blocking function beside the event loop."""

    async def __call__(self, function: Callable[..., Any], /, *args: Any) -> Any:
        """Return ``function(*args)``."""
        ...


class Share(Protocol):
    """A share of the one budget of request bytes in flight."""

    def check(self, count: int) -> None:
        """Raise ``Unavailable`` when there is no room for ``count`` bytes; takes none of them."""
        ...

    def take(self, count: int) -> None:
        """Take ``count`` bytes more. Raises ``Unavailable`` when the budget has not as many."""
        ...

    def give_back(self) -> None:
        """Give all of it back."""
        ...


class Form(NamedTuple):
    """A form that was read: the bytes of its file, and its other fields."""

    file: bytes
    fields: dict[str, str]


@dataclass(frozen=True, slots=True)
class Saved:
    """An upload that was written to a file.

    ``size`` is in bytes, ``name`` what the client calls the file, ``fields`` the other fields of
    its form.
    """

    size: int
    name: str
    fields: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Upload:
    """A file of a form: the field, what the client calls it, where it was written, its bytes."""

    field: str
    name: str
    path: Path
    size: int


@dataclass(frozen=True, slots=True)
class Uploads:
    """The files of a form in the order of their coming, and its other fields."""

    files: tuple[Upload, ...]
    fields: Mapping[str, str]


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


class Admit(Protocol):
    """Lets those pass who may make a call that did not come by HTTP."""

    async def __call__(
        self,
        metadata: Iterable[tuple[str, str]],
        path: str,
        address: str,
        needs: str | None,
    ) -> Principal:
        """Return who calls. Raises 401 for nobody, 403 for whom lacks the scope ``needs``.

        ``metadata`` are the call's headers, their names in lower case, ``path`` what it calls, and
        ``address`` the client's. A key that is there twice is 400.
        """
        ...


class RunProcess(Protocol):
    """Runs a child process until the context ends; see ``mataserver.run_process``."""

    def __call__(  # noqa: PLR0913 - each is another manner of the child
        self,
        target: str | Sequence[str] | Callable[..., None],
        arguments: Sequence[str] = (),
        *,
        environment: Mapping[str, str | None] | None = None,
        inherit: Sequence[str] = (),
        nice: int = 0,
        threads: int = 0,
        grace: float = 0.0,
        line_limit: int = 1 << 20,
        log: Path | Literal["output"] | None = None,
    ) -> AbstractAsyncContextManager[Child]:
        """Give the child."""
        ...


@dataclass(frozen=True, slots=True)
class Context:
    """What a service gets: small and frozen, never the application.

    settings: the plugin's own.
    server:   the server's settings that concern others.
    models:   the one way to the models.
    sessions: streaming sessions, those of clients too.
    http:     requests and answers.
    tasks:    background tasks that are looked after: a failure is logged and shown in ``/ready``.
    run_process: a child process that dies with the server.
    stopping: set when the server begins to shut down. It then waits for the handlers that still
              run, for ``drain_timeout`` seconds, and leaves the services after that.
    peers:    the services of every plugin by name, once all are made.
    address:  waits until the server listens; the base URL by which this machine reaches it.
    admit:    who makes a call that did not come by HTTP, and may: ``Admit``.
    count:    counts such a call in ``mataserver_requests_total`` and its latency: method, route,
              status, seconds.
    sign_out: ends the browsers' sessions of a principal's id, or of its ``grant``, and closes its
              streams' sockets: ``authenticate`` accepted it and would not any more.
    """

    settings: Any
    server: Server
    version: str
    log: logging.Logger
    data_dir: Path
    metrics: Any
    models: Models
    sessions: Sessions
    http: Http
    tasks: Tasks
    run_process: RunProcess
    run_blocking: Blocking
    stopping: asyncio.Event
    authenticate: Callable[[Credentials], Awaitable[Principal | None]]
    admit: Admit
    count: Callable[[str, str, str, float], None]
    sign_out: Callable[[str], None]
    ready: Callable[[], dict[str, str]]
    peer: Callable[..., Any]
    peers: Callable[[], Mapping[str, Any]]
    address: Callable[[], Awaitable[str]]

    def check_running(self) -> None:
        """Raise ``Unavailable`` when the server shuts down: it takes no new work."""
        if self.stopping.is_set():
            raise Unavailable("The server is shutting down", retry_after=5)


@runtime_checkable
class Service(Protocol):
    """Routes, state, start-up and shutdown of a plugin, in one object.

    It may also offer:

    requires:      names of plugins that are entered before this one; without one of them this
                   plugin is not in use.
    ping():        a dict that is merged into ``GET /health``.
    waiting():     what is not ready and why, for ``GET /ready``: then 503.
    ready():       a dict that is merged into the 200 of ``GET /ready``.
    error_forms(): path prefix to what makes of a status and a sentence the body of an error; every
                   error below the prefix has that form, also 401, 404, 405, 413 and ``Expect``.
    claims(request): a handler for a request that no route matches, or None. It is asked before
                   routing and before the key is looked at.
    pages():       the ``Page``s that it serves, for the navigation.
    authenticate(credentials): whose they are, None for what is not the plugin's to judge; it
                   raises a ``MataError`` for its own that do not count.
    on_result(event): a coroutine that is told of each answer, a ``ResultEvent``, after it has left.
    session_source(source, fps): a coroutine: the ``SessionSource`` of what ``POST /v1/sessions``
                   names as ``source``, or None for what is not the plugin's. ``InvalidParams``
                   is told where no other plugin takes it.
    reconfigure(settings): takes in the plugin's settings that were read anew while the server runs:
                   raises a ``MataError`` for wrong ones, else returns a function that has them
                   count. Those of other plugins wait for the next start.
    """

    def routes(self) -> Iterable[Route | web.RouteDef]:
        """The routes, REST and WebSocket alike; ``RouteDef``s are served and not documented."""
        ...

    async def __aenter__(self) -> object:
        """Start."""
        ...

    async def __aexit__(self, *exc: object) -> None:
        """Stop."""
        ...
