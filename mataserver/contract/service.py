"""The service side of the contract: Service, and the context that it is given.

The server's own handlers use it, too: a service has ``routes()`` and is a context manager around
the server's lifetime.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from mataserver.errors import Unavailable

if TYPE_CHECKING:
    import asyncio
    import logging
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager, AbstractContextManager
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

    ``max_inflight`` limits the total of all request bodies; ``max_connections`` defaults to what
    the file descriptor limit allows, and is no more than that. ``caller_share`` is the part of a
    limit that one caller with a key may have. ``rpc_connections``: how many connections each open
    gRPC port may have, whose descriptors HTTP leaves.
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
    caller_share: float
    rpc_connections: list[int] = field(default_factory=list)


class Admit(Protocol):
    """Authorizes calls that did not arrive by HTTP."""

    async def __call__(
        self,
        metadata: Iterable[tuple[str, str]],
        path: str,
        address: str,
        needs: str | None,
    ) -> Principal:
        """Return the caller. Raises 401 without valid credentials, 403 without the scope ``needs``.

        ``metadata`` are the call's headers with lower-case names, ``path`` the called method,
        ``address`` the client's. A duplicate key is a 400.
        """


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
        """Start the child."""


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
        """Run a child on a node with the required resources, until the context ends."""


class Watch(Protocol):
    """A caller's credentials, watched while something waits for the rest of a call."""

    def check(self) -> None:
        """Raise a ``MataError``, 401, if they have become invalid since."""


class Held(Protocol):
    """Ids of resources that this front-end holds, among several that share a directory."""

    def make(self, prefix: str, digits: int = 12) -> str:
        """Return a new id: a prefix that ends in ``_`` or ``-``, and hex digits."""

    async def add(self, identity: str, owner: str = "") -> None:
        """Announce a chosen id to the other front-ends; return once they can find it.

        ``owner`` is the principal's id if each caller chooses ids for itself: a caller's own
        resource is then found before those of others with the same id.
        """

    def discard(self, identity: str, owner: str = "") -> None:
        """Withdraw an id."""

    async def gather(self, request: web.Request, kind: Any) -> list[Any]:
        """Return every other front-end's answer to the same request, decoded as ``kind``.

        The route has ``held="*"``. Returns nothing for a request of another front-end, or without
        others. Raises ``Unavailable`` if a live one does not answer.
        """


@dataclass(frozen=True, slots=True)
class Context:
    """What a service is given: small and frozen, not the application.

    settings: the plugin's own.
    server:   the server's settings that concern others.
    models:   the only way to the models.
    sessions: streaming sessions, including clients'.
    http:     requests and answers.
    tasks:    supervised background tasks: a failure is logged and shown in ``/ready``.
    run_process: runs a child process that dies with the server.
    cluster:  the Ray cluster; raises a ``MataError`` if its package is missing.
    engine:   the engine of a name, if the configuration uses it, else None.
    run_blocking: ``await run_blocking(function, *args)`` calls a blocking function in a thread.
    held:     ids for routes with ``held``, which any of several front-ends can resolve. Ids are
              scoped by service.
    stopping: set when the server begins to shut down. It then waits for running handlers, for up to
              ``drain_timeout`` seconds, and exits the services after that.
    peers:    the services of all plugins by name, once all are created.
    address:  waits until the server listens; the base URL for clients on this machine.
    admit:    authorizes a call that did not arrive by HTTP: ``Admit``.
    watch:    watches an admitted caller's credentials within a context, for a call of which a part
              arrives later.
    count:    counts such a call in ``mataserver_requests_total`` and its latency: method, route,
              status, seconds.
    sign_out: revokes what ``authenticate`` once accepted, by a principal's id or its ``grant``:
              ends its browser sessions, WebSockets and event streams.
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
    engine: Callable[[str], Any]
    held: Held
    run_blocking: Callable[..., Awaitable[Any]]
    stopping: asyncio.Event
    authenticate: Callable[[Credentials], Awaitable[Principal | None]]
    admit: Admit
    watch: Callable[[Principal], AbstractContextManager[Watch]]
    count: Callable[[str, str, str, float], None]
    sign_out: Callable[[str], None]
    ready: Callable[[], dict[str, str]]
    peer: Callable[..., Any]
    peers: Callable[[], Mapping[str, Any]]
    address: Callable[[], Awaitable[str]]

    def check_running(self) -> None:
        """Raise ``Unavailable`` during shutdown, when no new work is accepted."""
        if self.stopping.is_set():
            raise Unavailable("The server is shutting down", retry_after=5)


@runtime_checkable
class Service(Protocol):
    """Routes, state, startup and shutdown of a plugin, in one object.

    Optional members:

    requires:      names of plugins that are entered before this one; if one is missing, this plugin
                   is not used.
    admits(name, service): checks the service of each other plugin; if it raises, that plugin is
                   not used.
    ping():        a dict that is merged into ``GET /health``.
    waiting():     what is not ready and why, for ``GET /ready``: then 503.
    ready():       a dict that is merged into the 200 of ``GET /ready``.
    error_forms(): path prefix to a function that builds an error's body from status and detail,
                   for every error below the prefix, including 401, 404, 405, 413 and ``Expect``.
    claims(request): a handler for a request of the plugin, whatever its path, or None. It is
                   called before routing and authentication.
    pages():       the ``Page``s that it serves, for the navigation.
    authenticate(credentials): their principal, None for credentials of another kind; raises a
                   ``MataError`` for its own kind if they are invalid.
    owner_of(secret): a synchronous alternative, for a service that needs only the secret: called
                   instead, once for each further request of a client that repeats the same head.
    on_result(event): a coroutine, called for each answer, a ``ResultEvent``, after it was sent.
    session_source(source, fps): a coroutine: the ``SessionSource`` for the ``source`` of
                   ``POST /v1/sessions``, or None if it is not the plugin's. ``InvalidParams`` is
                   reported if no other plugin accepts it.
    reconfigure(settings): validates the plugin's settings after a reload: raises a ``MataError``
                   for invalid ones, else returns a function that applies them. Plugins without it
                   get new settings at the next start.
    """

    def routes(self) -> Iterable[Route | web.RouteDef]:
        """Return the routes, REST and WebSocket; a ``RouteDef`` is served but not documented."""

    async def __aenter__(self) -> object:
        """Start."""

    async def __aexit__(self, *exc: object) -> None:
        """Stop."""
