"""What a handler stands on: the server's state, and routes that describe themselves."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mataserver.errors import Unavailable
from mataserver.logs import Repeats

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp import web

    from mataserver.cameras.roster import Roster
    from mataserver.catalog import Catalog
    from mataserver.config import Settings
    from mataserver.contract import Service
    from mataserver.engines.memory import MemoryProbe
    from mataserver.http.auth import Gate
    from mataserver.http.browsers import Browsers
    from mataserver.metrics import Metrics
    from mataserver.plugins import Plugins
    from mataserver.pool import ModelPool
    from mataserver.sessions import SessionStore


log = logging.getLogger("mataserver.http")


@dataclass(slots=True)
class State:
    """What the handlers share; made once by ``app.build``."""

    settings: Settings
    version: str
    catalog: Catalog
    pool: ModelPool
    sessions: SessionStore
    metrics: Metrics
    plugins: Plugins
    probe: MemoryProbe
    gate: Gate
    browsers: Browsers
    cameras: Roster
    services: list[tuple[str, Service]] = field(default_factory=list)
    document: bytes = b""
    body_bytes: int = 0
    active: int = 0
    not_ready: dict[str, str] = field(default_factory=dict)
    drains: list[Callable[[], None]] = field(default_factory=list)
    pulls: set[asyncio.Task[Any]] = field(default_factory=set)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    refusals: Repeats = field(default_factory=lambda: Repeats(log))
    decoding: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def draining(self) -> bool:
        """Whether the server shuts down: it takes no new work."""
        return self.stopping.is_set()

    def check_running(self) -> None:
        """Raise ``Unavailable`` when the server shuts down."""
        if self.draining:
            raise Unavailable("The server is shutting down", retry_after=5)


@dataclass(frozen=True, slots=True)
class Body:
    """A request or response body for the OpenAPI document; ``example`` is a request that works."""

    content_type: str
    schema: Any = None
    example: Any = None


@dataclass(frozen=True, slots=True)
class Route:
    """One route and all that the OpenAPI document says about it.

    ``parameters`` are query parameters: name to (type, required, description); ``headers`` are
    those of the request, alike. ``errors`` are the statuses besides ``status`` that it answers, in
    the form of ``problem``. An ``optional`` body may be left out.

    ``public`` routes answer without credentials: ``request[PRINCIPAL]`` is then who asks, or
    None. Others answer those who have the scope ``needs``, of ``mataserver.SCOPES``; ``ANYBODY`` is
    whoever is known, and None asks for every scope.
    """

    method: str
    path: str
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    summary: str
    tag: str
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
    documented: bool = True
