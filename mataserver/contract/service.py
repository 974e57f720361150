"""What a plugin's service gives and gets: routes that describe themselves, and a small context.

The server's own handlers stand on the same: a service is an object with ``routes()``, entered and
left with the server.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from mataserver.errors import Unavailable

if TYPE_CHECKING:
    import asyncio
    import logging
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from aiohttp import web

    from mataserver.config.needs import Needs
    from mataserver.contract.handles import Models
    from mataserver.contract.routes import Route
    from mataserver.contract.sessions import Sessions
    from mataserver.contract.web import Http
    from mataserver.principals import Credentials, Principal
    from mataserver.processes.child import Child
    from mataserver.tasks import Tasks


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
        confined: bool = True,
    ) -> AbstractAsyncContextManager[Child]:
        """Give the child."""
        ...


class ClusterProcesses(Protocol):
    """A Ray cluster, as services use it."""

    def run_process(
        self,
        target: str | Sequence[str] | Callable[..., None],
        arguments: Sequence[str] = (),
        *,
        needs: Needs | None = None,
        environment: Mapping[str, str] | None = None,
        nice: int = 0,
        threads: int = 0,
        grace: float = 0.0,
        log: Path | None = None,
    ) -> AbstractAsyncContextManager[Child]:
        """Give a child that runs on a node which has what it needs, until the context ends."""
        ...


class Held(Protocol):
    """Ids of what this server holds of several that share a directory, and the others do not."""

    def make(self, prefix: str, digits: int = 12) -> str:
        """Return a new id: a word that ends in ``_`` or ``-``, then hex digits."""
        ...

    async def add(self, identity: str) -> None:
        """Have the others find what has an id that somebody chose; return when they can."""
        ...

    def discard(self, identity: str) -> None:
        """Note that it is held no more."""
        ...

    async def gather(self, request: web.Request, kind: Any) -> list[Any]:
        """Return what each other server answers to the same request, read as ``kind``.

        The route has ``held="*"``. Nothing for what another server asks, and without others. Raises
        ``Unavailable`` where one lives and does not answer.
        """
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
    cluster:  the Ray cluster; raises a ``MataError`` when its package is missing.
    held:     ids of what routes with ``held`` name: of several front-ends, found from all. Names
              of other services count for themselves.
    stopping: set when the server begins to shut down. It then waits for the handlers that still
              run, for ``drain_timeout`` seconds, and leaves the services after that.
    peers:    the services of every plugin by name, once all are made.
    address:  waits until the server listens; the base URL by which this machine reaches it.
    admit:    who makes a call that did not come by HTTP, and may: ``Admit``.
    count:    counts such a call in ``mataserver_requests_total`` and its latency: method, route,
              status, seconds.
    sign_out: ends the browsers' sessions of a principal's id, or of its ``grant``, closes its
              WebSockets and ends its events: ``authenticate`` accepted it and would not any more.
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
    cluster: Callable[[], ClusterProcesses]
    held: Held
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
    admits(name, service): looks at the service of each other plugin; what it raises puts that
                   plugin out of use.
    ping():        a dict that is merged into ``GET /health``.
    waiting():     what is not ready and why, for ``GET /ready``: then 503.
    ready():       a dict that is merged into the 200 of ``GET /ready``.
    error_forms(): path prefix to what makes of a status and a sentence the body of an error; every
                   error below the prefix has that form, also 401, 404, 405, 413 and ``Expect``.
    claims(request): a handler for a request that is the plugin's whatever its path, or None. It
                   is asked before routing and before the key is looked at.
    pages():       the ``Page``s that it serves, for the navigation.
    authenticate(credentials): whose they are, None for what is not the plugin's to judge; it
                   raises a ``MataError`` for its own that do not count.
    owner_of(secret): the same for a service that needs no more than the secret and waits for
                   nothing: it is asked in its place, once for each further request of a client
                   that sends the same head again and again.
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
