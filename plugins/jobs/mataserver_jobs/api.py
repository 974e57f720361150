"""The service: it runs the jobs while the server does, and answers for them."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from mataserver import MataError
from mataserver_jobs.departed_owners import DepartedOwnerCleaner
from mataserver_jobs.desk import Desk
from mataserver_jobs.infer import INFER, task_of_model
from mataserver_jobs.infer_routes import InferRoutes
from mataserver_jobs.job_tokens import JobTokens
from mataserver_jobs.kinds import OWN, JobKind
from mataserver_jobs.lived_time import LivedTime
from mataserver_jobs.routes import Routes
from mataserver_jobs.runner import LocalRunner
from mataserver_jobs.storage import Storage
from mataserver_jobs.store import Store
from mataserver_jobs.table import CHANNEL, PROGRESS, SCHEMA
from mataserver_jobs.upload_routes import UploadRoutes
from mataserver_jobs.uploads import Uploads
from mataserver_jobs.webhook_delivery import DeliveryWorker
from mataserver_jobs.webhook_routes import WebhookRoutes
from mataserver_jobs.webhooks import Webhooks

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from mataserver import Context, Credentials, Principal, Route

SWEEP_SECONDS = 60.0


class JobsService:
    """``plugins.jobs``. Other plugins submit jobs through ``desk``, once this is entered."""

    requires = ("database",)
    desk: Desk
    webhooks: Webhooks

    def __init__(self, ctx: Context) -> None:
        settings = ctx.settings
        self._ctx = ctx
        self._kinds: dict[str, JobKind] = {}
        self._owners = dict.fromkeys(OWN, "jobs")
        self._tokens = JobTokens()
        folder = Path(settings.folder) if settings.folder else ctx.data_dir / "jobs"
        min_free = settings.min_free_mb * 1_000_000
        self._storage = Storage(folder, min_free=min_free)
        self._lived = LivedTime()
        self.uploads = Uploads(
            self._storage.root / "uploads",
            max_bytes=settings.max_upload_mb * 1_000_000,
            budget=settings.uploads_mb * 1_000_000,
            keep=settings.upload_hours * 3_600.0,
            min_free=min_free,
            clock=self._lived.now,
        )
        self._running: set[asyncio.Task[None]] = set()

    def routes(self) -> Iterable[Route]:
        """Return the routes."""
        parts = (InferRoutes, Routes, UploadRoutes, WebhookRoutes)
        return [route for part in parts for route in part(self._ctx, self).all()]

    def jobs(self) -> tuple[JobKind, ...]:
        """Return the kind of its own."""
        check = functools.partial(task_of_model, self._ctx.models)
        return (replace(INFER, check=check, settings=self._ctx.settings.roots),)

    def admits(self, name: str, service: object) -> None:
        """Raise ``MataError`` for a plugin whose kinds of jobs are another's."""
        kinds = [kind.name for kind in _kinds_of(service)]
        for kind in kinds:
            if owner := self._owners.get(kind):
                raise MataError(f"its kind of jobs belongs to {owner} already: {kind}")
        self._owners.update(dict.fromkeys(kinds, name))

    async def authenticate(self, credentials: Credentials) -> Principal | None:
        """Return the owner of a job whose process asks."""
        return self._tokens.principal(credentials)

    async def __aenter__(self) -> Self:
        """Bring the tables to their version and begin to run jobs.

        Raises ``MataError`` for a database that cannot be used.
        """
        ctx, settings = self._ctx, self._ctx.settings
        database = ctx.peer("database").database
        await database.migrate(SCHEMA)
        await self._lived.begin(database)
        for service in ctx.peers().values():
            self._kinds.update((kind.name, kind) for kind in _kinds_of(service))
        store = Store(database, keep=settings.keep_days * 86_400.0, lived=self._lived.now)
        self._runner = LocalRunner(
            store,
            self._kinds,
            self._storage.root,
            self._run_process(),
            slots=settings.slots,
            tokens=self._tokens,
            has_room=self._storage.has_room,
            transfers_files=settings.cluster is not None and not settings.shared_folder,
            **({} if settings.cluster else {"reserve": ctx.models.reserve}),
        )
        budget = settings.results_mb * 1_000_000
        self.desk = Desk(store, self._storage, self._kinds, self._runner.wake, budget)
        self.webhooks = Webhooks(database)
        self._delivery_worker = DeliveryWorker(
            self.webhooks, ctx.http.outbound, timeout=settings.webhook_timeout
        )
        checks = {name: p for name, p in ctx.peers().items() if hasattr(p, "departed")}
        self._owner_cleaner = DepartedOwnerCleaner(
            database, store, self.uploads, [each.departed for each in checks.values()], ctx.log
        )
        for channel in (CHANNEL, *checks):
            database.watch(channel, self._owner_cleaner.wake)
        database.watch(CHANNEL, self._changed)
        database.watch(PROGRESS, self.desk.changed)
        ctx.tasks.spawn(self._run(), "begin to run jobs")
        ctx.tasks.spawn(self._stop_on_shutdown(), "stop jobs")
        ctx.tasks.spawn(self._sweep_uploads, "remove old uploads")
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop the jobs; the next server continues them."""
        await self._close()
        await asyncio.gather(*self._running)

    async def _close(self) -> None:
        self.desk.close()
        self._owner_cleaner.close()
        self._lived.close()
        await asyncio.gather(self._runner.close(), self._delivery_worker.close())

    async def _sweep_uploads(self) -> None:
        await self._ctx.address()
        while True:
            await self._ctx.run_blocking(self.uploads.sweep)
            await asyncio.sleep(SWEEP_SECONDS)

    def _run_process(self) -> Callable[..., Any]:
        """Return what starts a job's process: on this machine, or on a node of the cluster."""
        needs = self._ctx.settings.cluster
        if needs is None:
            return self._ctx.run_process
        return functools.partial(self._ctx.cluster().run_process, needs=needs)

    def _changed(self) -> None:
        self._runner.wake()
        self._delivery_worker.wake()
        self.desk.changed()

    async def _run(self) -> None:
        """Run jobs, deliver webhooks and remove what is old, once the server accepts requests."""
        self._tokens.url = await self._ctx.address()
        self._spawn(self._runner.run, "run jobs")
        self._spawn(self._delivery_worker.run, "tell webhooks")
        self._spawn(self._owner_cleaner.run, "remove what users left")
        database = self._ctx.peer("database").database
        self._spawn(functools.partial(self._lived.run, database), "count the time")
        sweep = functools.partial(self.desk.sweep_periodically, SWEEP_SECONDS)
        self._spawn(sweep, "remove old jobs")

    def _spawn(self, begin: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        """Do some work that stops by being asked, and is looked after as a task of the context's.

        Those are cancelled: a claim would be left behind, and a driver in mid-statement.
        """

        async def work() -> None:
            task = asyncio.create_task(begin())
            self._running.add(task)
            task.add_done_callback(self._running.discard)
            await asyncio.shield(task)

        self._ctx.tasks.spawn(work, name)

    async def _stop_on_shutdown(self) -> None:
        """Stop the jobs as soon as the server shuts down: it no longer answers them."""
        await self._ctx.stopping.wait()
        await asyncio.shield(self._close())


def _kinds_of(service: Any) -> Iterable[JobKind]:
    """Return the kinds of jobs of a service. Raises ``MataError`` if it gives something else."""
    kinds = service.jobs() if hasattr(service, "jobs") else ()
    found = tuple(kinds) if isinstance(kinds, Iterable) else (None,)
    if not all(isinstance(each, JobKind) for each in found):
        raise MataError("jobs() must return a list of JobKind")
    return found
