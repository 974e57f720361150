"""The service: the control plane of the fleet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from mataserver import Unavailable
from mataserver_fleet.app_handlers import AppHandlers
from mataserver_fleet.consumer_handlers import ConsumerHandlers
from mataserver_fleet.consumers import Consumers
from mataserver_fleet.gateway.dataplane import DataPlane
from mataserver_fleet.pages import problem
from mataserver_fleet.store import Store
from mataserver_fleet.tables import SCHEMA
from mataserver_fleet.triton_handlers import TritonHandlers
from mataserver_fleet.tritons import Tritons
from mataserver_fleet.user_handlers import UserHandlers

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mataserver import Context, Route

PREFIXES = tuple(
    f"/api/{name}"
    for name in ("tritons", "models", "users", "apps", "consumers", "login", "logout", "usage")
)
"""What is the fleet's below ``/api``; other plugins have their own there."""


class Parts:
    """What the routes stand on, once the service is entered."""

    def __init__(self) -> None:
        self._store: Store | None = None

    def open(self, store: Store) -> None:
        """Begin to answer."""
        self._store = store

    @property
    def store(self) -> Store:
        """The tables. Raises ``Unavailable`` before the service is entered."""
        if self._store is None:
            raise Unavailable("The fleet is not open")
        return self._store

    @property
    def tritons(self) -> Tritons:
        """The Tritons."""
        return Tritons(self.store)

    @property
    def consumers(self) -> Consumers:
        """The consumers."""
        return Consumers(self.store)


class FleetService:
    """The service of the plugin."""

    requires = ("database", "accounts")

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._parts = Parts()
        self._routes = tuple(
            kind(ctx, self._parts)
            for kind in (TritonHandlers, AppHandlers, ConsumerHandlers, UserHandlers)
        )
        self._plane = DataPlane(ctx)
        self.claims = self._plane.claims
        self.waiting = self._plane.waiting

    def routes(self) -> Iterable[Route]:
        """Return every route."""
        return [route for part in (*self._routes, self._plane) for route in part.routes()]

    def error_forms(self) -> Mapping[str, object]:
        """Return the form of errors: one that MLServe's clients find their sentence in."""
        return dict.fromkeys(PREFIXES, problem)

    async def __aenter__(self) -> Self:
        """Bring the tables to their version. Raises ``MataError``."""
        database = self._ctx.peer("database").database
        await database.migrate(SCHEMA)
        store = Store(database)
        await self._plane.begin(store)
        self._parts.open(store)
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop."""
        await self._plane.end()
