"""The service: the control plane of the fleet."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Self

from mataserver import MataError
from mataserver_database import finish, finished
from mataserver_fleet.app_handlers import AppHandlers
from mataserver_fleet.components import Components
from mataserver_fleet.consumer_handlers import ConsumerHandlers
from mataserver_fleet.files import FileStore
from mataserver_fleet.gateway.dataplane import DataPlane
from mataserver_fleet.login_handlers import LoginHandlers
from mataserver_fleet.model_handlers import ModelHandlers
from mataserver_fleet.models import Models
from mataserver_fleet.pages import problem
from mataserver_fleet.permissions import Grants
from mataserver_fleet.store import Store, pause
from mataserver_fleet.supervision import TritonSupervisor
from mataserver_fleet.tables import CHANNEL, SCHEMA
from mataserver_fleet.triton_handlers import TritonHandlers
from mataserver_fleet.user_handlers import UserHandlers
from mataserver_fleet.version_handlers import VersionHandlers

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mataserver import Context, Route
    from mataserver_fleet.options import Settings

CLEANUP_SECONDS = 3600.0
SECOND_LOOK_SECONDS = 60.0
"""After the first look for old files, which removes none: not every server runs for an hour."""
MIN_PAUSE_SECONDS = 1.0
"""Between two looks for removed users: accounts may change many times a second."""
RETRY_SECONDS = 5.0
"""Until a look for removed users that failed is repeated."""
PREFIXES = tuple(
    f"/api/{name}"
    for name in (
        "tritons",
        "models",
        "users",
        "apps",
        "consumers",
        "login",
        "logout",
        "usage",
        "errors",
    )
)
"""What is the fleet's below ``/api``; other plugins have their own there."""


class FleetService:
    """The service of the plugin."""

    requires = ("database", "accounts")

    def __init__(self, ctx: Context) -> None:
        settings: Settings = ctx.settings
        self._ctx = ctx
        folder = Path(settings.folder) if settings.folder else ctx.data_dir / "fleet"
        files = FileStore(folder, unfinished=settings.unfinished_mb * 1e6)
        self._data_plane = DataPlane(ctx)
        self._components = Components(
            files, settings, self._data_plane.serves, self._data_plane.refused_keys
        )
        self._routes = tuple(kind(ctx, self._components) for kind in _HANDLERS)
        self._supervisor: TritonSupervisor | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.claims = self._data_plane.claims
        self.waiting = self._data_plane.waiting
        self.authenticate = self._data_plane.authenticate

    @property
    def grpc_port(self) -> int | None:
        """The gateway's port of gRPC, None where it is turned off."""
        return self._data_plane.grpc_port

    def routes(self) -> Iterable[Route]:
        """Return every route."""
        return [route for part in (*self._routes, self._data_plane) for route in part.routes()]

    def error_forms(self) -> Mapping[str, object]:
        """Return the form of errors: one that MLServe's clients find their sentence in."""
        return dict.fromkeys(PREFIXES, problem)

    async def __aenter__(self) -> Self:
        """Bring the tables to their version and look after the Tritons. Raises ``MataError``."""
        database = self._ctx.peer("database").database
        await database.migrate(SCHEMA)
        store = Store(database)
        await self._data_plane.begin(store)
        self._components.open(store)
        database.watch(CHANNEL, self._components.changes.notify)
        self._supervisor = TritonSupervisor(
            self._ctx, store, self._components.files, self._components.changes
        )
        spawn = self._ctx.tasks.spawn
        self._tasks = [
            spawn(partial(self._look_after_tritons, self._supervisor), "look after the Tritons"),
            spawn(partial(self._remove_old_files, store), "remove old files"),
            spawn(partial(self._forget_removed_users, store), "forget removed users"),
        ]
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop. What fails, as without a thread, leaves nothing after it undone."""
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(finished)
            if self._supervisor is not None:
                stack.push_async_callback(self._supervisor.stop)
            stack.push_async_callback(self._end_tasks)
            await self._data_plane.end()

    async def _end_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _look_after_tritons(self, supervisor: TritonSupervisor) -> None:
        """Look after them once the server listens, which must not wait for it."""
        await self._ctx.address()
        await supervisor.run()

    async def _remove_old_files(self, store: Store) -> None:
        """Remove files that nothing needs, now and then."""
        await self._ctx.address()
        for seconds in chain((SECOND_LOOK_SECONDS,), repeat(CLEANUP_SECONDS)):
            try:
                used = await finish(Models(store).digests())
                await asyncio.to_thread(self._components.files.clean_up, used)
            except MataError as error:  # the database is away
                self._ctx.log.warning("old files stay for now: %s", error.detail)
            await asyncio.sleep(seconds)

    async def _forget_removed_users(self, store: Store) -> None:
        """Remove their authorisations, whoever removed them: a command may have, or accounts."""
        await self._ctx.address()
        accounts_change = asyncio.Event()
        store.database.watch("accounts", accounts_change.set)
        while True:
            try:
                await finish(Grants(store).forget_removed(self._ctx.peer("accounts").departed))
            except MataError:  # the database is busy: without another change too, soon again
                await asyncio.sleep(RETRY_SECONDS)
                continue
            await asyncio.sleep(MIN_PAUSE_SECONDS)
            await pause(accounts_change, CLEANUP_SECONDS)


_HANDLERS = (
    TritonHandlers,
    ModelHandlers,
    VersionHandlers,
    AppHandlers,
    ConsumerHandlers,
    LoginHandlers,
    UserHandlers,
)
