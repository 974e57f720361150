"""What a handler stands on: the server's state, and routes that describe themselves."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from aiohttp import web
from aiohttp.web_urldispatcher import AbstractRoute

from mataserver.errors import Unavailable
from mataserver.logs import Repeats
from mataserver.service import Body, Route

__all__ = ["ALTERNATIVES", "ROUTE", "TABLE", "Body", "Limits", "Route", "State", "limits_of"]

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mataserver.cameras.roster import Roster
    from mataserver.catalog import Catalog
    from mataserver.config import SetBy, Settings
    from mataserver.engines.memory import MemoryProbe
    from mataserver.http.auth import Gate
    from mataserver.http.browsers import Browsers
    from mataserver.http.sockets import Sockets
    from mataserver.metrics import Metrics
    from mataserver.outbound import Outbound
    from mataserver.plugins import Plugins
    from mataserver.pool import ModelPool
    from mataserver.service import ErrorForm, Handler, Service
    from mataserver.services import ServedModels
    from mataserver.sessions import SessionStore
    from mataserver.tasks import Tasks


log = logging.getLogger("mataserver.http")


@dataclass(slots=True)
class State:
    """What the handlers share; made once by ``app.build``."""

    settings: Settings
    version: str
    catalog: Catalog
    pool: ModelPool
    models: ServedModels
    sessions: SessionStore
    metrics: Metrics
    plugins: Plugins
    probe: MemoryProbe
    gate: Gate
    browsers: Browsers
    cameras: Roster
    outbound: Outbound
    sockets: Sockets
    services: list[tuple[str, Service]] = field(default_factory=list)
    tasks: list[Tasks] = field(default_factory=list)
    forms: dict[str, ErrorForm] = field(default_factory=dict)
    claims: list[Callable[[web.Request], Handler | None]] = field(default_factory=list)
    set_by: Mapping[str, SetBy] = field(default_factory=dict)
    document: bytes = b""
    body_bytes: int = 0
    active: int = 0
    not_ready: dict[str, str] = field(default_factory=dict)
    drains: list[Callable[[], None]] = field(default_factory=list)
    pulls: set[asyncio.Task[Any]] = field(default_factory=set)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    deadline: float | None = None
    listening: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""
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


class Limits(NamedTuple):
    """What a body may take: bytes in all, and seconds in all or, if ``idle``, between chunks."""

    size: int
    seconds: float
    idle: bool


TABLE = web.AppKey("table", dict[AbstractRoute, Route])
"""What is known of each route beyond what aiohttp keeps."""
ALTERNATIVES = web.AppKey("alternatives", dict[AbstractRoute, list[Route]])
"""Other routes of the same method and path, for the requests that they know."""
ROUTE: web.RequestKey[Route] = web.RequestKey("route", Route)
"""The route that was chosen for a request."""


def limits_of(request: web.Request, state: State) -> Limits:
    """Return what the body of a request may take."""
    route, settings = request.get(ROUTE), state.settings
    if route is None:
        return Limits(settings.max_body, settings.body_timeout, idle=False)
    size = settings.max_body if route.max_body is None else route.max_body
    return Limits(size, settings.body_timeout, route.body_timeout == "idle")
